//! Progress on a terminal: what is done, at which rate, how long it will take. And the wish to
//! stop, from ^C.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use parking_lot::Mutex;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::progress::Skipped;
use crate::cli::exit;
use crate::cli::global::Global;

/// Exit code after ^C.
const INTERRUPTED: i32 = 130;
/// How long the work has to end by itself after the first ^C.
const GRACE: Duration = Duration::from_secs(1);

/// What is drawn of work whose end is known, and of other work.
const BAR: &str = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                   {decimal_bytes_per_sec} {eta} left";
const SPINNER: &str = "{spinner} {msg}";

/// A bar on stderr, if that is a terminal.
#[derive(Debug)]
pub(super) struct Bar {
    shown: ProgressBar,
    interrupted: Arc<AtomicBool>,
    strict: bool,
}

/// What this command passed over.
static SKIPPED: Mutex<Vec<Skipped>> = Mutex::new(Vec::new());

/// What was passed over so far.
pub(super) fn skipped() -> Vec<Skipped> {
    SKIPPED.lock().clone()
}

impl Bar {
    pub(super) fn new(global: &Global) -> Self {
        let unwanted = global.quiet
            || global.no_progress
            || std::env::var_os("HF_HUB_DISABLE_PROGRESS_BARS").is_some_and(|v| v == "1");
        let target = if unwanted || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Self {
            shown: bar,
            interrupted: on_interrupt(),
            strict: global.strict,
        }
    }
}

/// A flag that the first ^C raises; the second ends the program at once.
fn on_interrupt() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(FLAG.get_or_init(watch_signals))
}

fn watch_signals() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    end_after_grace();
    for signal in [SIGINT, SIGTERM] {
        let at_once = signal_hook::flag::register_conditional_shutdown(
            signal,
            INTERRUPTED,
            Arc::clone(&flag),
        );
        let raise = signal_hook::flag::register(signal, Arc::clone(&flag));
        if at_once.and(raise).is_err() {
            exit::complain("warning: ^C will leave a temporary file behind");
        }
    }
    flag
}

/// Work that waits for a pipe, a terminal or a disk does not see the flag. It is ended from
/// outside, and what it was writing goes.
fn end_after_grace() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    let end = move || {
        signals.forever().next();
        thread::sleep(GRACE);
        atomic::abandon_all();
        // stderr itself may be what the work waits for
        thread::spawn(|| exit::complain("error: interrupted"));
        thread::sleep(Duration::from_millis(50));
        signal_hook::low_level::exit(INTERRUPTED);
    };
    // without it, the second ^C ends the program
    let _ = thread::Builder::new().spawn(end);
}

impl Progress for Bar {
    fn begin(&self, what: &str, bytes_total: u64) {
        // without an end there is no bar: one of nothing would be drawn full
        let template = if bytes_total == 0 { SPINNER } else { BAR };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.shown.set_style(style);
        }
        self.shown.set_length(bytes_total);
        self.shown.reset();
        self.shown.set_message(what.to_owned());
        self.shown.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.shown.inc(bytes);
    }

    fn end(&self) {
        self.shown.finish_and_clear();
    }

    fn warn(&self, text: &str) {
        self.shown
            .suspend(|| exit::complain(&format!("warning: {text}")));
    }

    fn skip(&self, skipped: Skipped) -> Result<()> {
        self.skip_all(vec![skipped])
    }

    fn skip_all(&self, all: Vec<Skipped>) -> Result<()> {
        let mut known = SKIPPED.lock();
        for new in all {
            // a folder may be walked twice
            if known.iter().all(|known| known.path != new.path) {
                known.push(new);
            }
        }
        if known.is_empty() || !self.strict {
            return Ok(());
        }
        let what = "not all of it can be taken, and nothing is passed over with `--strict`";
        Err(Error::invalid(what))
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.shown.finish_and_clear();
    }
}
