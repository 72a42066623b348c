//! The door for the fuzz target: requests of any bytes, answered over a folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bigsmall::base::Error;
use bigsmall::base::Result;

use crate::adapter::Adapter;
use crate::adapter::CacheMode;
use crate::fs::Fs;
use crate::fs::FsOptions;
use crate::fs::source::Source;
use crate::fs::tree::ROOT;
use crate::session::Session;

/// Bytes of decoded blocks and tables that are kept.
const CACHE_BYTES: u64 = 1 << 20;

/// A mount without a kernel: what it answers goes nowhere.
pub struct Mount {
    session: Arc<Session<Adapter>>,
    nodes: Vec<u64>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").finish_non_exhaustive()
    }
}

impl Mount {
    /// Of a folder, which is only read.
    pub fn new(folder: &Path) -> Result<Self> {
        let options = FsOptions {
            bases: Vec::new(),
            cache_bytes: CACHE_BYTES,
            readahead_bytes: 0,
            in_place: false,
            protect_models: false,
            life: 1,
        };
        let adapter = Adapter {
            fs: Arc::new(Fs::new(Source::open(folder)?, &options)?),
            cache_mode: CacheMode::Kernel,
            refused: BTreeSet::new(),
            begun: BTreeSet::new(),
        };
        let nowhere = File::options().write(true).open("/dev/null");
        let failed = |e: io::Error| Error::io("cannot open", folder, e);
        // what the kernel would know after a listing
        let names = std::fs::read_dir(folder).map_err(failed)?;
        let names =
            names.map(|entry| entry.map(|entry| entry.path().with_extension("safetensors")));
        let names: Vec<_> = names.collect::<io::Result<_>>().map_err(failed)?;
        let mut nodes: Vec<u64> = names
            .iter()
            .flat_map(|path| [path.file_name(), path.file_stem()])
            .filter_map(|name| Some(adapter.fs.lookup(ROOT, name?).ok()?.ino))
            .collect();
        nodes.sort_unstable();
        nodes.insert(0, ROOT);
        let session = Session::new(nowhere.map_err(failed)?.into(), 4096, adapter);
        Ok(Self { session, nodes })
    }

    /// Numbers of nodes that there are, the root's first.
    pub fn nodes(&self) -> &[u64] {
        &self.nodes
    }

    /// Answers bytes as a request, on this thread. Whether everything that was begun is over then.
    pub fn answer(&self, request: &[u8]) -> bool {
        self.session.take(request);
        self.session.is_idle()
    }
}
