//! Tiles from the disk, read ahead by threads of their own in the order in which a pass uses them,
//! across the borders of layers and passes, within a bound in bytes.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::archive::CodedTensor;
use crate::archive::Model;
use crate::base::Error;
use crate::base::Result;

/// Reads that are under way at once.
const READERS: usize = 4;

/// A tile on the disk.
#[derive(Debug, Clone)]
pub(super) struct StreamedTile {
    pub(super) tensor: Arc<str>,
    /// Which of the tensor's bytes.
    pub(super) range: Range<u64>,
    /// Bytes that are read for it.
    pub(super) stored_len: u64,
}

/// What was read of a tile.
#[derive(Debug)]
pub(super) enum Loaded {
    Coded(CodedTensor),
    Plain(Vec<u8>),
}

#[derive(Debug, Default)]
struct State {
    /// Tiles that will be used, by number, and what each is called in the run.
    wanted: VecDeque<(u64, usize)>,
    /// What the next wanted tile is called.
    next: u64,
    done: BTreeMap<u64, Result<Loaded>>,
    /// Buffers that nobody uses. There are never more of them, so that what is read ahead takes
    /// the same memory all the time.
    buffers: Vec<Vec<u8>>,
    is_stopped: bool,
}

#[derive(Debug)]
struct Shared {
    model: Arc<Model>,
    tiles: Vec<StreamedTile>,
    state: Mutex<State>,
    may_read: Condvar,
    is_read: Condvar,
}

/// The tiles, and who reads them.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Reads `tiles` ahead into buffers that take `ring` bytes together, but always one.
    pub(super) fn new(model: Arc<Model>, tiles: Vec<StreamedTile>, ring: u64) -> Result<Self> {
        let is_empty = tiles.is_empty();
        let largest = tiles
            .iter()
            .map(|tile| tile.stored_len)
            .max()
            .unwrap_or(0)
            .max(1);
        let buffer = || Vec::with_capacity(largest as usize);
        let count = (ring / largest).clamp(1, tiles.len().max(1) as u64);
        let shared = Arc::new(Shared {
            model,
            tiles,
            state: Mutex::new(State {
                buffers: (0..count).map(|_| buffer()).collect(),
                ..State::default()
            }),
            may_read: Condvar::new(),
            is_read: Condvar::new(),
        });
        let mut stream = Self {
            shared,
            readers: Vec::new(),
        };
        for number in 0..if is_empty { 0 } else { READERS } {
            let shared = Arc::clone(&stream.shared);
            let reader = std::thread::Builder::new()
                .name(format!("reader {number}"))
                .spawn(move || shared.read_all());
            let reader = reader.map_err(|e| Error::io("cannot start a thread", "/".as_ref(), e))?;
            stream.readers.push(reader);
        }
        Ok(stream)
    }

    /// Says that the first `count` tiles will be used once more, and what the first of them is
    /// called.
    pub(super) fn expect(&self, count: usize) -> u64 {
        let mut state = self.shared.state.lock();
        let first = state.next;
        for tile in 0..count {
            let name = state.next;
            state.wanted.push_back((name, tile));
            state.next += 1;
        }
        drop(state);
        self.shared.may_read.notify_all();
        first
    }

    /// Waits for a tile. Whoever has used it gives it back.
    pub(super) fn take(&self, name: u64) -> Result<Loaded> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(loaded) = state.done.remove(&name) {
                return loaded;
            }
            if state.is_stopped {
                return Err(Error::new(
                    crate::base::ErrorKind::Interrupted,
                    "a thread that reads weights has ended",
                ));
            }
            self.shared.is_read.wait(&mut state);
        }
    }

    /// Gives back what was read of a tile.
    pub(super) fn give_back(&self, loaded: Loaded) {
        let buffer = match loaded {
            Loaded::Coded(coded) => coded.into_buffer(),
            Loaded::Plain(buffer) => buffer,
        };
        self.shared.state.lock().buffers.push(buffer);
        self.shared.may_read.notify_one();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop();
        for reader in self.readers.drain(..) {
            // one that panicked has said so
            let _ = reader.join();
        }
    }
}

/// Lets nobody wait for a thread that is gone.
struct StopOnPanic<'a>(&'a Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.may_read.notify_all();
        self.is_read.notify_all();
    }

    fn read_all(&self) {
        let _on_panic = StopOnPanic(self);
        while let Some((name, number, buffer)) = self.next() {
            let loaded = self.read(number, buffer);
            self.state.lock().done.insert(name, loaded);
            self.is_read.notify_all();
        }
    }

    /// The next tile to read, once there is a buffer for it; none at the end.
    fn next(&self) -> Option<(u64, usize, Vec<u8>)> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            if !state.wanted.is_empty()
                && let Some(buffer) = state.buffers.pop()
            {
                let (name, number) = state.wanted.pop_front()?;
                return Some((name, number, buffer));
            }
            self.may_read.wait(&mut state);
        }
    }

    fn read(&self, number: usize, mut buffer: Vec<u8>) -> Result<Loaded> {
        let tile = &self.tiles[number];
        let tensor = self.model.tensor(&tile.tensor)?;
        if tensor.block_len().is_some()
            && let Some(coded) = tensor.coded(tile.range.clone(), std::mem::take(&mut buffer))?
        {
            return Ok(Loaded::Coded(coded));
        }
        let len = (tile.range.end - tile.range.start) as usize;
        buffer.resize(len, 0);
        tensor.read(tile.range.clone(), &mut buffer)?;
        Ok(Loaded::Plain(buffer))
    }
}
