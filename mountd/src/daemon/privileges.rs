//! What root may, given up as far as a mount does not need it. Other users have nothing to give up.

use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use rustix::thread::capabilities;
use rustix::thread::remove_capability_from_bounding_set;
use rustix::thread::set_capabilities;
use rustix::thread::set_no_new_privs;

/// Who gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It ends the mount, and starts workers.
    Supervisor,
    /// It reads files that may be hostile.
    Worker,
}

fn needed(role: Role, writable: bool) -> CapabilitySet {
    // the files of all users are shown, to those who may see them
    let mut needed = CapabilitySet::DAC_READ_SEARCH;
    if writable {
        // what is made belongs to whoever asked for it
        needed |= CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::CHOWN
            | CapabilitySet::FOWNER
            | CapabilitySet::FSETID;
    }
    if role == Role::Supervisor {
        needed |= CapabilitySet::SYS_ADMIN;
    }
    needed
}

/// Gives up the rest, for this process and for those that it starts. Before it has other threads.
pub(crate) fn give_up(role: Role, writable: bool) {
    let needed = needed(role, writable);
    let failed = |error: rustix::io::Errno| {
        tracing::warn!("capabilities could not be given up: {error}");
    };
    match capabilities(None) {
        Ok(held) if held.permitted.is_empty() => {}
        Ok(held) => {
            for capability in held.permitted.difference(needed).iter() {
                // only whoever may change capabilities can do this, and it is about children alone
                let _ = remove_capability_from_bounding_set(capability);
            }
            let kept = held.permitted & needed;
            let sets = CapabilitySets {
                effective: kept,
                permitted: kept,
                inheritable: CapabilitySet::empty(),
            };
            if let Err(error) = set_capabilities(None, sets) {
                failed(error);
            }
        }
        Err(error) => failed(error),
    }
    if role == Role::Worker
        && let Err(error) = set_no_new_privs(true)
    {
        failed(error);
    }
}
