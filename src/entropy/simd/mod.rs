//! The inner loops. `scalar` is the definition of each; faster twins stand beside it and `dispatch` chooses.

pub mod dispatch;
pub mod scalar;
