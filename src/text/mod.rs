//! What turns text into token ids and back, and logits into a token: a model's tokenizer, its chat
//! template, its way of sampling.

mod beside;
pub mod escape;
pub mod generation_config;
mod jinja;
mod marks;
mod namespace;
pub mod sampler;
mod steps;
pub mod stop;
pub mod stream;
pub mod template;
mod template_source;
pub mod tokenizer;
mod tokenizer_file;

pub use beside::ModelFolder;
pub use escape::for_terminal;
pub use generation_config::GenerationConfig;
pub use marks::Piece;
pub use sampler::Sampler;
pub use sampler::SamplerOptions;
pub use stop::StopStrings;
pub use stream::TextStream;
pub use template::ChatTemplate;
pub use template::Message;
pub use tokenizer::Tokenizer;
