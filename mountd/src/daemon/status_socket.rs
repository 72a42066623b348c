//! The status of a mount over a socket in the runtime folder, for `mounts`.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::record;
use crate::daemon::status::Status;
use crate::daemon::supervisor::Shared;

/// How long either side may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Where the supervisor of a mountpoint is asked.
fn socket_path(mountpoint: &Path) -> Option<PathBuf> {
    let record = record::path_of(mountpoint).ok()?;
    Some(record.with_extension("sock"))
}

/// Begins to tell; the path of the socket, which goes with the mount.
pub(crate) fn listen(mountpoint: &Path, shared: &Arc<Shared>) -> Option<PathBuf> {
    let complain = |error: std::io::Error| tracing::warn!("`mounts` cannot ask us: {error}");
    let path = socket_path(mountpoint)?;
    // one of a mount that died; the folder is ours alone
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .inspect_err(|_| ())
        .map_err(complain);
    let sharing = Arc::clone(shared);
    let listener = listener.ok()?;
    let thread = std::thread::Builder::new().name("status".into());
    let spawned = thread.spawn(move || {
        for asker in listener.incoming().flatten() {
            answer(asker, &Status::take(&sharing));
        }
    });
    spawned.map_err(complain).ok()?;
    Some(path)
}

fn answer(mut asker: UnixStream, status: &Status) {
    // whoever asks and does not listen is left
    let _ = asker.set_write_timeout(Some(SILENCE_MAX));
    if let Ok(text) = serde_json::to_vec(status) {
        let _ = asker.write_all(&text);
    }
}

/// Asks the supervisor of a mountpoint; none if there is none, or none that answers.
pub(crate) fn ask(mountpoint: &Path) -> Option<Status> {
    let mut supervisor = UnixStream::connect(socket_path(mountpoint)?).ok()?;
    supervisor.set_read_timeout(Some(SILENCE_MAX)).ok()?;
    let mut text = Vec::new();
    supervisor.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
