//! What a mount does, as text in the format of Prometheus (exposition format 0.0.4), over HTTP.

use std::fmt::Write as _;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bigsmall::base::Error;
use bigsmall::base::Result;

use crate::daemon::status::Status;
use crate::daemon::supervisor::Shared;

/// How long somebody who asks may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Longest request that is read.
const REQUEST_LEN_MAX: u64 = 8 << 10;

/// Takes the address.
pub(crate) fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|e| {
        Error::io("cannot listen there for metrics", Path::new(address), e)
            .hint("an address and a port that is free, such as 127.0.0.1:9187")
    })
}

/// Begins to answer.
pub(crate) fn start(listener: TcpListener, mountpoint: &Path, shared: &Arc<Shared>) {
    let (shared, mountpoint) = (Arc::clone(shared), mountpoint.to_owned());
    let answer_all = move || serve(&listener, &mountpoint, || Status::take(&shared));
    let thread = std::thread::Builder::new().name("metrics".into());
    if let Err(error) = thread.spawn(answer_all) {
        tracing::warn!("nobody can ask for metrics: {error}");
    }
}

/// Answers, one after another.
fn serve(listener: &TcpListener, mountpoint: &Path, status: impl Fn() -> Status) {
    for asker in listener.incoming().flatten() {
        let _ = answer(&asker, mountpoint, &status);
    }
}

fn answer(
    asker: &TcpStream,
    mountpoint: &Path,
    status: impl Fn() -> Status,
) -> std::io::Result<()> {
    asker.set_read_timeout(Some(SILENCE_MAX))?;
    asker.set_write_timeout(Some(SILENCE_MAX))?;
    let mut request = BufReader::new(asker.take(REQUEST_LEN_MAX));
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match first.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["GET", "/" | "/metrics", _] => ("200 OK", text(mountpoint, &status())),
        ["GET", ..] => ("404 Not Found", "there is /metrics only\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut asker = asker;
    asker.write_all(head.as_bytes())?;
    asker.write_all(body.as_bytes())
}

/// Name, what it says, and value. Names of what only grows end in `_total`.
type Sample = (&'static str, &'static str, u64);

fn samples(status: &Status) -> [Sample; 17] {
    let done = &status.done;
    let (waits, wasted) = (done.cache_waits, done.prefetched_wasted);
    let (memory, memory_max) = (status.resident_bytes, status.resident_bytes_max);
    [
        (
            "sent_bytes_total",
            "Bytes that readers got.",
            done.sent_bytes,
        ),
        (
            "source_bytes_total",
            "Bytes read from images.",
            done.source_bytes,
        ),
        ("decoded_bytes_total", "Bytes decoded.", done.decoded_bytes),
        (
            "cache_hits_total",
            "Blocks and tables that were there.",
            done.cache_hits,
        ),
        (
            "cache_misses_total",
            "Blocks and tables that were not.",
            done.cache_misses,
        ),
        (
            "cache_waits_total",
            "Waits for another reader's decode.",
            waits,
        ),
        (
            "ahead_blocks_total",
            "Blocks decoded ahead.",
            done.prefetched,
        ),
        (
            "ahead_used_total",
            "Those that a reader got.",
            done.prefetched_used,
        ),
        ("ahead_wasted_total", "Those that none got.", wasted),
        (
            "failed_reads_total",
            "Reads that got an error.",
            done.failed_reads,
        ),
        ("corrupt_blocks_total", "Damage that was met.", done.damaged),
        (
            "worker_deaths_total",
            "Workers that died.",
            status.worker_deaths,
        ),
        (
            "slowest_request_microseconds",
            "The slowest request.",
            done.slowest_us,
        ),
        (
            "cache_bytes",
            "Decoded bytes and tables held.",
            done.cache_bytes,
        ),
        ("cache_bytes_max", "Their bound.", done.cache_bytes_max),
        ("resident_bytes", "Memory of both processes.", memory),
        (
            "resident_bytes_max",
            "What it should stay below.",
            memory_max,
        ),
    ]
}

/// The status as text.
#[expect(clippy::cast_precision_loss, reason = "seconds of requests")]
fn text(mountpoint: &Path, status: &Status) -> String {
    let mut text = String::new();
    let at = escaped(mountpoint);
    let head = |text: &mut String, name: &str, help: &str| {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        let _ = writeln!(text, "# HELP bigsmall_{name} {help}");
        let _ = writeln!(text, "# TYPE bigsmall_{name} {kind}");
    };
    let name = "fuse_requests_total";
    head(&mut text, name, "Requests of the kernel.");
    for (op, n) in &status.done.requests {
        let _ = writeln!(
            text,
            "bigsmall_{name}{{mountpoint=\"{at}\",op=\"{op}\"}} {n}"
        );
    }
    let name = "fuse_request_seconds_total";
    head(&mut text, name, "Time that they took.");
    for (op, ns) in &status.done.request_ns {
        let seconds = *ns as f64 * 1e-9;
        let _ = writeln!(
            text,
            "bigsmall_{name}{{mountpoint=\"{at}\",op=\"{op}\"}} {seconds}"
        );
    }
    for (name, help, value) in samples(status) {
        head(&mut text, name, help);
        let _ = writeln!(text, "bigsmall_{name}{{mountpoint=\"{at}\"}} {value}");
    }
    text
}

/// A path as the value of a label.
fn escaped(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
