"""What is left after a power cut: a command's writes, syncs, renames and unlinks are recorded with strace, and replayed up to every point,
each time with some of what was not yet synced lost.

The rules are the weakest that POSIX allows. A write is on the disk when its file was synced after it, a name when its folder was: whatever
was not synced may be lost, each piece by itself, in any combination, though later pieces are there. A rename is there or not."""
import hashlib
import os
import random
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CALLS = ("openat,open,creat,read,readv,write,writev,pwrite64,lseek,ftruncate,truncate,fallocate,fsync,fdatasync,sync,syncfs,rename,renameat,renameat2,"
         "link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,close,dup,dup2,dup3,fcntl,copy_file_range,sendfile,setxattr,"
         "lsetxattr,fsetxattr,mmap,ioctl")
SUBSETS = 20
ROOT = 0
NEVER = float("inf")
END = 1 << 60  # after all that was recorded


class Lost(Exception):
    """A state in which something is gone."""


def split(text):
    """The arguments of a call: at commas that stand in no string and no bracket."""
    found, depth, start, at = [], 0, 0, 0
    while at < len(text):
        c = text[at]
        if c == '"':
            at = text.index('"', at + 1)
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [*found, text[start:].strip()]


def string(argument):
    """The bytes of a string as `strace -xx` writes them."""
    if not argument.endswith('"'):
        raise ValueError(f"cut off: {argument[-40:]}")
    return bytes.fromhex(argument[1:-1].replace("\\x", ""))


def calls(trace):
    """Calls that came back without an error, in the order in which they did: when each began, its name, arguments and result."""
    begun = {}
    for number, line in enumerate(trace.splitlines()):
        process, rest = line.split(None, 1)
        if rest.endswith("<unfinished ...>"):
            begun[process] = number, rest[:-len("<unfinished ...>")].rstrip()
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>", rest)
        first = number
        if resumed:
            first, head = begun.pop(process)
            rest = head + rest[resumed.end():]
        done = re.fullmatch(r"(\w+)\((.*)\)\s+= (\d+|0x[0-9a-f]+)(?: .*)?", rest, re.DOTALL)
        if done:
            yield first, number, done[1], split(done[2]), int(done[3], 0)


class File:
    """A file, folder or link, whatever its name."""

    def __init__(self, kind, content=b""):
        self.kind, self.content, self.names = kind, content, {}


class Handle:
    """An open file, and where it is read and written next."""

    def __init__(self, node, appends):
        self.node, self.at, self.appends = node, 0, appends


class Recording:
    """What a command did to a folder: changes in their order, and when each was on the disk."""

    def __init__(self, folder, words, environment=None):
        self.folder = Path(folder).resolve()
        self.nodes = []
        self.start(self.folder)
        # changes: (node, what, when it was made, when it was on the disk)
        self.changes, self.handles = [], {}
        with tempfile.TemporaryDirectory() as scratch:
            trace = Path(scratch) / "trace"
            strace = ["strace", "-f", "-qq", "-xx", "-s", "33554432", "-e", f"trace={CALLS}", "-e", "raw=read,readv,mmap,ioctl", "-o", trace]
            done = subprocess.run([*strace, *words], cwd=self.folder, env=environment, capture_output=True, text=True)
            self.code, self.said = done.returncode, done.stderr
            self.moments = set()
            for first, number, name, arguments, result in calls(trace.read_text()):
                before = len(self.changes)
                getattr(self, f"do_{name}", self.refuse)(name, arguments, result, (first, number))
                if len(self.changes) > before:
                    self.moments.add(number)

    # ------------------------------------------------------------ what is there before
    def start(self, path):
        """Takes in what is at a path; its number."""
        number = len(self.nodes)
        if path.is_symlink():
            node = File("link", os.fsencode(os.readlink(path)))
        elif path.is_dir():
            node = File("folder")
        else:
            node = File("file", path.read_bytes())
        self.nodes.append(node)
        if node.kind == "folder":
            for name in sorted(os.listdir(path)):
                node.names[name] = self.start(path / name)
        self.first = {n: (dict(node.names), node.content) for n, node in enumerate(self.nodes)}
        return number

    # ------------------------------------------------------------ changes
    def change(self, nodes, what, when):
        self.changes.append([nodes, what, when[1], NEVER])

    def name(self, when, *names):
        """Names that appear, or go if no node is said: (folder, name, node)."""
        for folder, name, node in names:
            if node is None:
                self.nodes[folder].names.pop(name, None)
            else:
                self.nodes[folder].names[name] = node
        self.change({folder for folder, *_ in names}, ("names", names), when)

    def sync(self, node, when, names=True):
        for change in self.changes:
            if change[2] < when[0] and node in change[0]:
                change[0].discard(node)
                if not change[0]:
                    change[3] = min(change[3], when[1])

    def put(self, node, at, data, when):
        file = self.nodes[node]
        content = file.content.ljust(at, b"\0")
        file.content = content[:at] + data + content[at + len(data):]
        self.change({node}, ("bytes", node, at, data), when)

    # ------------------------------------------------------------ paths
    def walk(self, path, base=None):
        """Folder and last name of a path; nothing if it lies elsewhere. Links in the middle are not met here."""
        path = os.path.normpath(path)
        if base is None:
            if not path.startswith("/"):
                path = os.path.join(self.folder, path)
            if path == str(self.folder):
                return ROOT, None
            if not path.startswith(f"{self.folder}/"):
                return None
            parts, at = path[len(str(self.folder)) + 1:].split("/"), ROOT
        else:
            parts, at = path.split("/"), base
        for part in parts[:-1]:
            at = self.nodes[at].names.get(part)
            if at is None or self.nodes[at].kind != "folder":
                return None
        return at, parts[-1]

    def at(self, folder, path):
        """What `folder`, as the first argument of a call, and `path` name."""
        path = os.fsdecode(string(path))
        if folder is None or folder == "AT_FDCWD" or path.startswith("/"):
            return self.walk(path)
        handle = self.handles.get(int(folder))
        return handle and self.walk(path, handle.node)

    def node(self, place):
        folder, name = place
        return folder if name in (None, ".") else self.nodes[folder].names.get(name)

    def refuse(self, name, arguments, result, when):
        raise ValueError(f"no rule for {name}{arguments}")

    # ------------------------------------------------------------ calls
    def do_openat(self, name, arguments, result, when):
        self.handles.pop(result, None)
        place = self.at(*arguments[:2])
        if place is None:
            return
        flags, node = arguments[2].split("|"), self.node(place)
        if "O_TMPFILE" in flags:
            raise ValueError("no rule for O_TMPFILE")
        if node is None:
            node = len(self.nodes)
            self.nodes.append(File("file"))
            self.name(when, (*place, node))
        elif self.nodes[node].kind == "link":
            return
        elif "O_TRUNC" in flags and self.nodes[node].content:
            self.cut(node, 0, when)
        self.handles[result] = Handle(node, "O_APPEND" in flags)

    def do_open(self, name, arguments, result, when):
        self.do_openat(name, ["AT_FDCWD", *arguments], result, when)

    def do_creat(self, name, arguments, result, when):
        self.do_openat(name, ["AT_FDCWD", arguments[0], "O_CREAT|O_TRUNC"], result, when)

    def do_close(self, name, arguments, result, when):
        self.handles.pop(int(arguments[0]), None)

    def do_dup(self, name, arguments, result, when):
        self.handles.pop(result, None)
        if int(arguments[0]) in self.handles:
            self.handles[result] = self.handles[int(arguments[0])]

    do_dup2 = do_dup3 = do_dup

    def do_fcntl(self, name, arguments, result, when):
        if arguments[1].startswith("F_DUPFD"):
            self.do_dup(name, arguments, result, when)

    def do_read(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0], 16))
        if handle:
            handle.at += result

    do_readv = do_read

    def do_lseek(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            handle.at = result

    def write_here(self, handle, data, when):
        if handle:
            if handle.appends:
                handle.at = len(self.nodes[handle.node].content)
            self.put(handle.node, handle.at, data, when)
            handle.at += len(data)

    def do_write(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            self.write_here(handle, string(arguments[1])[:result], when)

    def do_writev(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            parts = re.findall(r'iov_base=("[^"]*")', arguments[1])
            self.write_here(handle, b"".join(map(string, parts))[:result], when)

    def do_pwrite64(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            self.put(handle.node, int(arguments[3]), string(arguments[1])[:result], when)

    def copy(self, source, target, length, when):
        if target is None:
            return
        if source is None:
            raise ValueError("a copy of what was not recorded")
        data = self.nodes[source.node].content[source.at:source.at + length]
        if len(data) != length:
            raise ValueError("a copy of what is not there")
        source.at += length
        self.write_here(target, data, when)

    def do_copy_file_range(self, name, arguments, result, when):
        if result and (arguments[1], arguments[3]) != ("NULL", "NULL"):
            raise ValueError("no rule for copies from a place")
        if result:
            self.copy(self.handles.get(int(arguments[0])), self.handles.get(int(arguments[2])), result, when)

    def do_sendfile(self, name, arguments, result, when):
        if result and arguments[2] != "NULL":
            raise ValueError("no rule for copies from a place")
        if result:
            self.copy(self.handles.get(int(arguments[1])), self.handles.get(int(arguments[0])), result, when)

    def cut(self, node, length, when):
        file = self.nodes[node]
        file.content = file.content[:length].ljust(length, b"\0")
        self.change({node}, ("length", node, length), when)

    def do_ftruncate(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle and len(self.nodes[handle.node].content) != int(arguments[1]):
            self.cut(handle.node, int(arguments[1]), when)

    def do_fallocate(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle and "KEEP_SIZE" not in arguments[1]:
            end = int(arguments[2]) + int(arguments[3])
            if end > len(self.nodes[handle.node].content):
                self.cut(handle.node, end, when)

    def do_fsync(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            self.sync(handle.node, when)

    do_fdatasync = do_fsync

    def do_sync(self, name, arguments, result, when):
        for node in range(len(self.nodes)):
            self.sync(node, when)

    do_syncfs = do_sync

    def renamed(self, old, new, when, swap=False):
        if old is None and new is None:
            return
        if old is None or new is None:
            raise ValueError("a rename into or out of what is recorded")
        node = self.node(old)
        self.name(when, (*old, self.node(new) if swap else None), (*new, node))

    def do_rename(self, name, arguments, result, when):
        self.renamed(self.at(None, arguments[0]), self.at(None, arguments[1]), when)

    def do_renameat(self, name, arguments, result, when):
        swap = len(arguments) > 4 and "RENAME_EXCHANGE" in arguments[4]
        self.renamed(self.at(*arguments[:2]), self.at(*arguments[2:4]), when, swap)

    do_renameat2 = do_renameat

    def do_linkat(self, name, arguments, result, when):
        old, new = self.at(*arguments[:2]), self.at(*arguments[2:4])
        if new is not None:
            self.name(when, (*new, self.node(old)))

    def do_link(self, name, arguments, result, when):
        self.do_linkat(name, ["AT_FDCWD", arguments[0], "AT_FDCWD", arguments[1]], result, when)

    def do_unlinkat(self, name, arguments, result, when):
        place = self.at(*arguments[:2])
        if place is not None:
            self.name(when, (*place, None))

    def do_unlink(self, name, arguments, result, when):
        self.do_unlinkat(name, ["AT_FDCWD", *arguments], result, when)

    do_rmdir = do_unlink

    def made(self, place, node, when):
        if place is not None:
            self.nodes.append(node)
            self.name(when, (*place, len(self.nodes) - 1))

    def do_mkdirat(self, name, arguments, result, when):
        self.made(self.at(*arguments[:2]), File("folder"), when)

    def do_mkdir(self, name, arguments, result, when):
        self.do_mkdirat(name, ["AT_FDCWD", *arguments], result, when)

    def do_symlinkat(self, name, arguments, result, when):
        self.made(self.at(*arguments[1:3]), File("link", string(arguments[0])), when)

    def do_symlink(self, name, arguments, result, when):
        self.do_symlinkat(name, [arguments[0], "AT_FDCWD", arguments[1]], result, when)

    def do_fsetxattr(self, name, arguments, result, when):
        handle = self.handles.get(int(arguments[0]))
        if handle:
            self.change({handle.node}, ("attribute", handle.node, string(arguments[1]), string(arguments[2])), when)

    def do_setxattr(self, name, arguments, result, when):
        place = self.at(None, arguments[0])
        node = place and self.node(place)
        if node is not None:
            self.change({node}, ("attribute", node, string(arguments[1]), string(arguments[2])), when)

    do_lsetxattr = do_setxattr

    def do_mmap(self, name, arguments, result, when):
        shared, writes = int(arguments[3], 16) & 1, int(arguments[2], 16) & 2
        if shared and writes and int(arguments[4], 16) in self.handles:
            raise ValueError("no rule for files that are written through memory")

    def do_ioctl(self, name, arguments, result, when):
        if int(arguments[1], 16) in (0x40049409, 0x4020940d) and int(arguments[0], 16) in self.handles:
            raise ValueError("no rule for clones of files")

    # ------------------------------------------------------------ states
    def state(self, moment, lost):
        """The disk when nothing after `moment` happened, nor the changes `lost`: {path: content}, None for folders, a list of the target for links;
        and attributes as {(path, name): value}."""
        names = {n: dict(before) for n, (before, _) in self.first.items()}
        content = {n: before for n, (_, before) in self.first.items()}
        attributes = {}
        for number, (_, what, when, _) in enumerate(self.changes):
            if when > moment or number in lost:
                continue
            if what[0] == "names":
                for folder, name, node in what[1]:
                    of_folder = names.setdefault(folder, {})
                    if node is None:
                        of_folder.pop(name, None)
                    else:
                        of_folder[name] = node
            elif what[0] == "bytes":
                _, node, at, data = what
                old = content.get(node, b"").ljust(at, b"\0")
                content[node] = old[:at] + data + old[at + len(data):]
            elif what[0] == "length":
                content[what[1]] = content.get(what[1], b"")[:what[2]].ljust(what[2], b"\0")
            else:
                attributes.setdefault(what[1], {})[what[2]] = what[3]
        found, notes, left = {}, {}, [("", ROOT)]
        while left:
            path, node = left.pop()
            kind = self.nodes[node].kind
            if kind == "folder":
                found[path] = None
                left += [(f"{path}/{name}" if path else name, below) for name, below in names.get(node, {}).items()]
            elif kind == "link":
                found[path] = [self.nodes[node].content]
            else:
                found[path] = content.get(node, b"")
                notes |= {(path, name): value for name, value in attributes.get(node, {}).items()}
        return found, notes

    def states(self, chance):
        """Every moment, and for each what may be lost: all, nothing, each single change, and some sets by chance."""
        for moment in [-1, *sorted(self.moments), END]:
            open_ones = [n for n, (_, _, made, synced) in enumerate(self.changes) if made <= moment < synced]
            sets = [frozenset(), frozenset(open_ones), *(frozenset([n]) for n in open_ones)]
            sets += [frozenset(n for n in open_ones if chance.random() < 0.5) for _ in range(SUBSETS if len(open_ones) > 1 else 0)]
            for lost in dict.fromkeys(sets):
                yield moment, lost, self.state(moment, lost)

    def told(self, moment, lost):
        """A state in words."""
        when = "the end" if moment == END else f"line {moment} of the trace"
        words = [f"cut off after {when}; lost:"]
        for number in sorted(lost):
            what = self.changes[number][1]
            words.append("  " + str([w if not isinstance(w, bytes) or len(w) < 40 else f"{len(w)} bytes" for w in what]))
        return "\n".join(words)


def digest_of(state):
    files, notes = state
    whole = hashlib.sha256()
    for path, content in sorted(files.items()):
        kind = b"d" if content is None else b"l" + content[0] if isinstance(content, list) else b"f" + hashlib.sha256(content).digest()
        whole.update(os.fsencode(path) + b"\0" + kind + b"\0")
    whole.update(repr(sorted(notes.items())).encode())
    return whole.digest()


def put_down(state, folder):
    """Makes a state of the disk in an empty folder."""
    files, notes = state
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in sorted(files.items()):
        full = Path(folder) / path
        if content is None:
            full.mkdir(parents=True)
        elif isinstance(content, list):
            full.symlink_to(os.fsdecode(content[0]))
        else:
            full.write_bytes(content)
    for (path, name), value in notes.items():
        os.setxattr(Path(folder) / path, name, value)


def replay(recording, check, chance=None):
    """Hands every state to `check`, which raises Lost, with whether the command had come to its end; each once. How many states there were, and
    how many different ones."""
    seen, count = set(), 0
    for moment, lost, state in recording.states(chance or random.Random(5)):
        count += 1
        is_done = moment == END
        key = digest_of(state), is_done
        if key in seen:
            continue
        seen.add(key)
        try:
            check(state, is_done)
        except Lost as what:
            raise Lost(f"{what}\n{recording.told(moment, lost)}") from None
    return count, len(seen)
