//! The talk between supervisor and worker: messages over a pair of sockets, with open files beside
//! them.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::recvmsg;
use rustix::net::sendmsg;
use rustix::net::socketpair;

use crate::fs::handover::NodeLocation;
use crate::fs::root::NUMBERS;

/// Longest message: a path, or the words that a worker begins with.
const MESSAGE_LEN_MAX: usize = 192 << 10;
/// Files that go with one message at most.
const FILES_MAX: usize = 2;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// To a worker: its words; with the device and the folder.
    Begin(Vec<u8>),
    /// Both ways: the kernel knows this node.
    Node(u64, NodeLocation),
    /// To the supervisor: it does not any more.
    Forget(u64),
    /// Both ways: a file is open under this handle, and of this inode; with the file.
    Held(u64, u64),
    /// To the supervisor: shall the kernel read and write the file behind this handle itself?
    Pass(u64),
    /// To a worker: under this number it does, for this handle; with 0 it does not.
    Passed(u64, u32),
    /// To the supervisor: it is closed.
    Close(u64),
    /// Both ways: a file of an image is open; with the image, what the disk said of it, and where
    /// the file is.
    HeldImage(u64, [u64; NUMBERS], NodeLocation),
    /// To the supervisor: all have closed it.
    CloseImage(u64),
    /// Both ways: this request, which changes names, is begun.
    Begun(u64),
    /// To the supervisor: it was answered.
    Done(u64),
    /// To the supervisor: this request, which an earlier worker did not answer, is tried.
    Trying(u64),
    /// To a worker: this request is not to be tried again.
    Refuse(u64),
    /// To a worker: that was all.
    Go,
    /// To the supervisor: requests are answered.
    Ready,
    /// To a worker: what has it done?.
    Count,
    /// To the supervisor: this.
    Counted(Vec<u8>),
    /// To a worker: end.
    End,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let numbers = |tag: u8, numbers: &[u64]| {
            let mut bytes = vec![tag];
            for n in numbers {
                bytes.extend(n.to_le_bytes());
            }
            bytes
        };
        match self {
            Self::Begin(words) => [&[0], words.as_slice()].concat(),
            Self::Node(ino, location) => [numbers(1, &[*ino]), encode_location(location)].concat(),
            Self::Forget(ino) => numbers(2, &[*ino]),
            Self::Held(handle, ino) => numbers(3, &[*handle, *ino]),
            Self::Close(handle) => numbers(4, &[*handle]),
            Self::Trying(unique) => numbers(5, &[*unique]),
            Self::Refuse(unique) => numbers(6, &[*unique]),
            Self::Go => vec![7],
            Self::Ready => vec![8],
            Self::Count => vec![9],
            Self::Counted(counters) => [&[10], counters.as_slice()].concat(),
            Self::End => vec![11],
            Self::Pass(handle) => numbers(12, &[*handle]),
            Self::Passed(handle, number) => numbers(13, &[*handle, u64::from(*number)]),
            Self::HeldImage(ino, stat, location) => [
                numbers(14, &[*ino]),
                numbers(0, stat)[1..].to_vec(),
                encode_location(location),
            ]
            .concat(),
            Self::CloseImage(ino) => numbers(15, &[*ino]),
            Self::Begun(unique) => numbers(16, &[*unique]),
            Self::Done(unique) => numbers(17, &[*unique]),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, mut rest) = bytes.split_first()?;
        let mut number = || {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_le_bytes(*number))
        };
        Some(match tag {
            0 => Self::Begin(rest.to_owned()),
            1 => Self::Node(number()?, decode_location(rest)?),
            2 => Self::Forget(number()?),
            3 => Self::Held(number()?, number()?),
            4 => Self::Close(number()?),
            5 => Self::Trying(number()?),
            6 => Self::Refuse(number()?),
            7 => Self::Go,
            8 => Self::Ready,
            9 => Self::Count,
            10 => Self::Counted(rest.to_owned()),
            11 => Self::End,
            12 => Self::Pass(number()?),
            13 => Self::Passed(number()?, u32::try_from(number()?).ok()?),
            14 => {
                let ino = number()?;
                let mut stat = [0; NUMBERS];
                for field in &mut stat {
                    *field = number()?;
                }
                Self::HeldImage(ino, stat, decode_location(rest)?)
            }
            15 => Self::CloseImage(number()?),
            16 => Self::Begun(number()?),
            17 => Self::Done(number()?),
            _ => return None,
        })
    }
}

/// The path's length, the path and, of what is within an image, a one and its path in there.
fn encode_location(location: &NodeLocation) -> Vec<u8> {
    let path = location.path.as_os_str().as_bytes();
    let mut bytes = (path.len() as u64).to_le_bytes().to_vec();
    bytes.extend(path);
    if let Some(inner) = &location.inner {
        bytes.push(1);
        bytes.extend(inner.as_bytes());
    }
    bytes
}

fn decode_location(bytes: &[u8]) -> Option<NodeLocation> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (path, inner) = rest.split_at_checked(len)?;
    let inner = match inner.split_first() {
        None => None,
        Some((_, inner)) => Some(std::str::from_utf8(inner).ok()?.to_owned()),
    };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    Some(NodeLocation { path, inner })
}

/// One end.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Both ends.
    pub(crate) fn pair() -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// The end that a worker has as its standard input.
    pub(crate) fn of_stdin() -> std::io::Result<Self> {
        std::io::stdin().as_fd().try_clone_to_owned().map(Self)
    }

    /// Says something; an error if nobody is there any more.
    pub(crate) fn send(&self, message: &Message, files: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let bytes = message.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        loop {
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() {
                let fits = beside.push(SendAncillaryMessage::ScmRights(files));
                assert!(fits, "there is room for {FILES_MAX} files");
            }
            match sendmsg(
                &self.0,
                &[IoSlice::new(&bytes)],
                &mut beside,
                SendFlags::NOSIGNAL,
            ) {
                Err(Errno::INTR) => {}
                sent => return sent.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// The next message and the files beside it; none if nobody is there any more, or if it is none
    /// of ours.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> Option<(Message, Vec<OwnedFd>)> {
        buffer.resize(MESSAGE_LEN_MAX, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let len = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match recvmsg(&self.0, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
                // the other end is gone and had not read all: what it said before that comes still
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(_) => return None,
                Ok(received) => break received.bytes,
            }
        };
        let files = beside.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect(),
            _ => Vec::new(),
        });
        let files = files.collect();
        Message::decode(&buffer[..len]).map(|message| (message, files))
    }
}

/// The file that comes beside whatever is said next on a socket.
pub(crate) fn receive_file(socket: impl AsFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC).ok()?;
    beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn messages_arrive_as_they_were_said_with_their_files() {
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link(theirs);
        let location = |inner: Option<&str>| NodeLocation {
            path: std::ffi::OsStr::from_bytes(b"a/\xff.bs").into(),
            inner: inner.map(str::to_owned),
        };
        let mut buffer = Vec::new();
        for message in [
            Message::Begin(vec![1; 5000]),
            Message::Node(7, location(None)),
            Message::Node(8, location(Some("in/side"))),
            Message::Node(9, location(Some(""))),
            Message::Forget(u64::MAX),
            Message::Close(3),
            Message::Pass(3),
            Message::Passed(3, 7),
            Message::HeldImage(3, [7; NUMBERS], location(Some("in"))),
            Message::CloseImage(3),
            Message::Begun(6),
            Message::Done(6),
            Message::Trying(4),
            Message::Refuse(5),
            Message::Go,
            Message::Ready,
            Message::Count,
            Message::Counted(Vec::new()),
            Message::End,
        ] {
            ours.send(&message, &[]).unwrap();
            let (received, files) = theirs.receive(&mut buffer).unwrap();
            assert_eq!(received, message);
            assert!(files.is_empty());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), b"abc").unwrap();
        let open = File::open(file.path()).unwrap();
        ours.send(&Message::Held(1, 2), &[open.as_fd()]).unwrap();
        let (_, files) = theirs.receive(&mut buffer).unwrap();
        let mut text = String::new();
        let mut received: Vec<File> = files.into_iter().map(File::from).collect();
        received[0].read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        drop(ours);
        assert!(theirs.receive(&mut buffer).is_none());
    }

    #[test]
    fn the_last_words_of_one_that_is_gone_are_heard() {
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link(theirs);
        for handle in 0..100 {
            theirs.send(&Message::Close(handle), &[]).unwrap();
        }
        ours.send(&Message::Count, &[]).unwrap();
        // it has not read that
        drop(theirs);
        let mut buffer = Vec::new();
        for handle in 0..100 {
            let (message, _) = ours.receive(&mut buffer).unwrap();
            assert_eq!(message, Message::Close(handle));
        }
        assert!(ours.receive(&mut buffer).is_none());
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x01aaaaaaaabbbbbbbbc",
            b"\xff",
            b"\x03a",
        ] {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
