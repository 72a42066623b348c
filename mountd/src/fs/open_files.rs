//! Files of images: opened, read, closed.

use std::os::fd::AsFd;

use bigsmall::archive::Original;
use bigsmall::archive::Piece;

use crate::fs::handover::NodeLocation;
use crate::fs::image::Image;
use crate::fs::opened::Opened;
use crate::fs::root::Result;
use crate::fs::tree::Node;
use crate::fs::view::Fs;

/// What was read of a file of an image.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) pieces: Vec<Piece>,
    ino: u64,
    file: Original,
    offset: u64,
    len: u64,
}

impl Fs {
    /// Opens a file of an image. What is open keeps its content, whatever happens to its name.
    pub(crate) fn open(&self, ino: u64) -> Result<()> {
        if let Some(opened) = self.opened.lock().get_mut(&ino)
            && !opened.is_doubtful
        {
            opened.users += 1;
            return Ok(());
        }
        let node = self.node(ino)?;
        let file = self.open_node(&node)?;
        let image = self.open_image(&node)?;
        self.take_open(ino, file);
        self.tell_of_open(ino, Some((&node, &image)));
        Ok(())
    }

    /// Tells the handover whether a file is open, unless it knows.
    pub(super) fn tell_of_open(&self, ino: u64, opened: Option<(&Node, &Image)>) {
        let Some(handover) = &self.handover else {
            return;
        };
        // whoever comes last sees what is true in the end, and nobody who reads waits for this
        let mut told = self.handed_over.lock();
        let is_open = self.opened.lock().contains_key(&ino);
        match opened {
            Some((node, image)) if is_open && told.insert(ino) => {
                handover.hold_image(ino, &NodeLocation::of(node), &node.stat, image.file.as_fd());
            }
            None if !is_open && told.remove(&ino) => handover.close_image(ino),
            _ => {}
        }
    }

    /// One more user of an open file.
    fn take_open(&self, ino: u64, file: Original) {
        let mut opened = self.opened.lock();
        let users = opened.get(&ino).map_or(0, |opened| opened.users);
        let new = Opened {
            file,
            users: users + 1,
            is_doubtful: false,
        };
        opened.insert(ino, new);
    }

    /// The handle of every file that [`open`](Self::open) opened.
    pub(crate) fn handle(&self) -> u64 {
        self.life
    }

    /// Closes what [`open`](Self::open) opened. What an earlier worker opened is closed when the
    /// kernel forgets it.
    pub(crate) fn release(&self, ino: u64, handle: u64) {
        if handle != self.life {
            return;
        }
        let mut opened = self.opened.lock();
        if let Some(known) = opened.get_mut(&ino) {
            known.users -= 1;
            if known.users > 0 {
                return;
            }
            opened.remove(&ino);
            drop(opened);
            // whether those who opened it with an earlier worker have closed it nobody knows
            if !self.inherited_images.lock().contains_key(&ino) {
                self.tell_of_open(ino, None);
            }
        }
    }

    /// Exactly the bytes that there are of an image's file between `offset` and `offset + size`: a
    /// shorter answer would make the kernel think that the file ends there.
    pub(crate) fn read(&self, ino: u64, offset: u64, size: u32) -> Result<Read> {
        let open = self
            .opened
            .lock()
            .get(&ino)
            .map(|opened| opened.file.clone());
        let file = if let Some(file) = open {
            file
        } else {
            // opened with an earlier worker
            let file = self.open_node(&*self.node(ino)?)?;
            self.take_open(ino, file.clone());
            file
        };
        let len = file.byte_len().saturating_sub(offset).min(u64::from(size));
        let demand = self.readahead.demand();
        let pieces = file.pieces(offset, len);
        drop(demand);
        let pieces = pieces.map_err(|error| {
            self.look_anew(ino);
            self.fail(&error)
        })?;
        Ok(Read {
            pieces,
            ino,
            file,
            offset,
            len,
        })
    }

    /// Has decoded what whoever read this reads next, most probably. For after the reply.
    pub(crate) fn read_ahead(&self, read: &Read) {
        if let Original::Image(file) = &read.file {
            self.readahead.note(read.ino, file, read.offset, read.len);
        }
    }
}
