//! What our processes are called.

/// The name of our processes, as the kernel has it: not more than 15 bytes.
pub(crate) const PROCESS_NAME: &std::ffi::CStr = c"bigsmall-mountd";
/// The same for their first word.
pub(crate) const PROGRAM_NAME: &str = "bigsmall-mountd";
/// The word by which a worker is started.
pub(crate) const WORKER: &str = "worker";
