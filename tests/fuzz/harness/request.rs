//! Requests from any bytes, answered over a folder of images: each gets an answer, none is left
//! over, and nothing panics. An input is a row of requests; their lengths are mended, as the kernel
//! would have them right.

use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bigsmall_mountd::fuzz::Mount;

use super::choices::Choices;

/// Requests of one input.
const REQUESTS_MAX: usize = 24;
const HEADER_LEN: usize = 40;

/// The daemon catches what a request does wrong, so that is told here.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Ordering::Relaxed);
            before(info);
        }));
    });
}

/// Golden images: of files and of a folder, and a plain file.
fn folder() -> PathBuf {
    // from `tests/fuzz` and from `mountd`
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let places = ["../golden", "../tests/golden"].map(|place| here.join(place));
    places
        .into_iter()
        .find(|place| place.is_dir())
        .expect("there are golden images")
}

pub(crate) fn run(data: &[u8]) {
    note_panics();
    let mount = Mount::new(&folder()).expect("the golden images are there");
    assert!(mount.answer(data), "something is left over");
    let mut choices = Choices(data);
    for unique in 1..=REQUESTS_MAX as u64 {
        if choices.0.is_empty() {
            break;
        }
        let body_len = usize::from(choices.byte());
        let opcode = choices.byte() % 64;
        // one that there is, or any
        let node = match choices.byte() {
            0 => choices
                .take(8)
                .iter()
                .fold(0, |n, byte| n << 8 | u64::from(*byte)),
            _ => choices.of(mount.nodes()),
        };
        let body = choices.take(body_len);
        let mut request = vec![0; HEADER_LEN];
        let len = (HEADER_LEN + body.len()) as u32;
        request[..4].copy_from_slice(&len.to_le_bytes());
        request[4..8].copy_from_slice(&u32::from(opcode).to_le_bytes());
        request[8..16].copy_from_slice(&unique.to_le_bytes());
        request[16..24].copy_from_slice(&node.to_le_bytes());
        request.extend_from_slice(body);
        assert!(mount.answer(&request), "something is left over");
    }
    assert!(!PANICKED.load(Ordering::Relaxed), "a request panicked");
}
