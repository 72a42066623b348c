//! `bigsmall-mountd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bigsmall_mountd::main()
}
