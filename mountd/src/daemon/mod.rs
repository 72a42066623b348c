//! The life of a mount: started in the background, announced when usable, ended by a signal or by
//! an unmount.

mod backing;
pub(crate) mod control;
mod handshake;
mod kernel_readahead;
mod link;
mod logging;
mod metrics;
pub(crate) mod mount;
mod mounting;
mod notify;
mod privileges;
mod program;
mod record;
mod setup;
mod status;
mod status_socket;
mod supervisor;
pub(crate) mod worker;
