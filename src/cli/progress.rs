//! Progress on a terminal: what is done, at which rate, how long it will take. And the wish to stop, from ^C.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

use crate::base::Progress;
use crate::cli::exit;
use crate::cli::global::Global;

/// Exit code after a second ^C, which does not wait for anything.
const INTERRUPTED: i32 = 130;

/// What is drawn of work whose end is known, and of other work.
const BAR: &str = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                   {decimal_bytes_per_sec} {eta} left";
const SPINNER: &str = "{spinner} {msg}";

/// A bar on stderr, if that is a terminal.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    interrupted: Arc<AtomicBool>,
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
            bar,
            interrupted: on_interrupt(),
        }
    }
}

/// A flag that the first ^C raises; the second ends the program at once.
fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
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

impl Progress for Bar {
    fn begin(&self, what: &str, bytes_total: u64) {
        // without an end there is no bar: one of nothing would be drawn full
        let template = if bytes_total == 0 { SPINNER } else { BAR };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(bytes_total);
        self.bar.reset();
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn warn(&self, text: &str) {
        self.bar
            .suspend(|| exit::complain(&format!("warning: {text}")));
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
