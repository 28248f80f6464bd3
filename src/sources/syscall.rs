//! The calls that `rustix` does not have: the only unsafe code of ours, but for what is in
//! builds with the feature `virt` (`libvirt/virt/raw.rs`).
//!
//! Everything in here either returns plain values or bytes. What the bytes mean is
//! for others to find out, safely.

#![expect(unsafe_code, reason = "there is no safe way to make these calls")]

use std::{
    ffi::CStr,
    io, mem,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    ptr::{self, NonNull},
    slice,
};

use super::{Text, dir};
use crate::error::{Error, Result};

/// Asks the kernel about the discipline of its clock, changing nothing.
///
/// The number is the state of the clock, `TIME_OK` to `TIME_ERROR`.
pub(super) fn adjtimex() -> io::Result<(libc::c_int, libc::timex)> {
    // SAFETY: a `timex` is made of integers, for which zero is a value. Zero in
    // `modes` says that nothing is to be set.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `timex` to where there is one.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((state, timex))
}

/// The name of the local time zone at a time, given in seconds since 1970, and how
/// many seconds it is ahead of UTC.
pub(super) fn local_time_zone(seconds: i64) -> Option<(String, i64)> {
    let time = libc::time_t::try_from(seconds).ok()?;
    // SAFETY: a `tm` is made of integers and one pointer, which may be null.
    let mut parts: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to what the function expects. It reads the
    // environment, which nobody in this process writes.
    let filled = unsafe { libc::localtime_r(&raw const time, &raw mut parts) };
    if filled.is_null() || parts.tm_zone.is_null() {
        return None;
    }
    // SAFETY: it points to a C string of the library's, which lives until the time
    // zone is set anew, and that only happens when the environment is changed.
    let name = unsafe { CStr::from_ptr(parts.tm_zone) };
    let name = name.to_string_lossy().into_owned();
    #[allow(clippy::useless_conversion, reason = "is an i32 elsewhere")]
    Some((name, i64::from(parts.tm_gmtoff)))
}

/// Memory with a page behind it that nobody can write to.
///
/// Some requests make the kernel write as much as it then has to say, whatever
/// it was told about the space there is. Here it stops at the end with `EFAULT`.
#[derive(Debug)]
pub(super) struct GuardedBuffer {
    start: NonNull<u8>,
    len: usize,
    /// With the guard.
    mapped: usize,
}

impl GuardedBuffer {
    /// At least `len` bytes, all zero. What is not written to costs nothing.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let (Some(len), Some(mapped)) = (
            len.checked_next_multiple_of(page),
            len.checked_next_multiple_of(page)
                .and_then(|len| len.checked_add(page)),
        ) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address of the kernel's choice, touches no
        // other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let guarded = Self { start, len, mapped };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: `len` bytes from `start` lie in the mapping made above.
        if unsafe { libc::mprotect(start.as_ptr().cast(), len, access) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(guarded)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are mapped for as long as `self` lives, were zero at
        // first, and are written to through `&mut self` only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way to them.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for GuardedBuffer {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nothing borrows from it
        // any more. There is nothing to be done about an error.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

/// What a network interface can be asked, from `linux/ethtool.h`. All of these
/// only read, and have everything in the request itself, no pointers.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum EthtoolCommand {
    /// `ETHTOOL_GDRVINFO`
    DriverInfo = 0x03,
    /// `ETHTOOL_GSTRINGS`
    StringSet = 0x1b,
    /// `ETHTOOL_GSTATS`
    Stats = 0x1d,
    /// `ETHTOOL_GSSET_INFO`
    StringSetInfo = 0x37,
    /// `ETHTOOL_GLINKSETTINGS`
    LinkSettings = 0x4c,
}

/// Not in every `libc` there is.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Asks about a network interface. The request, and afterwards the answer, are in
/// `request`, where the question is written to the first four bytes.
pub(super) fn ethtool(
    socket: BorrowedFd<'_>,
    interface: &str,
    cmd: EthtoolCommand,
    request: &mut GuardedBuffer,
) -> io::Result<()> {
    if let Some(command) = request.bytes_mut().first_chunk_mut() {
        *command = (cmd as u32).to_ne_bytes();
    }
    // SAFETY: an `ifreq` is an array and a union of integers and pointers, for all
    // of which zero is a value.
    let mut ifreq: libc::ifreq = unsafe { mem::zeroed() };
    // One byte is left for the zero at the end.
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    ifreq.ifr_ifru.ifru_data = request.start.as_ptr().cast();
    // SAFETY: the kernel reads and writes one `ifreq` where there is one, and the
    // memory from `ifru_data` on: borrowed mutably here, and guarded at its end
    // however much the answer is.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets all threads take memory from one place, large pieces straight from the kernel.
///
/// Told how much that is, the C library does not raise it after the largest piece there was.
pub(super) fn limit_malloc_arenas() {
    const LARGE: libc::c_int = 1 << 20;
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: it takes two numbers, and at worst does not know what they say.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Gives memory that was freed back to the kernel.
pub(super) fn malloc_trim() {
    // SAFETY: it touches only what nobody has.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Lets go of the pages of this program's code and of the C library's. The kernel maps them
/// again, from the file or the memory that it keeps of it, as they are run or read.
pub(super) fn discard_clean_code_pages() -> Result<()> {
    let path = Path::new("/proc/self/smaps");
    let maps = dir::read(path)?;
    // Where this very function is, and one of the library's: neither file is ever unmapped.
    let here = discard_clean_code_pages as fn() -> Result<()> as usize;
    let library = libc::getpid as unsafe extern "C" fn() -> libc::pid_t as usize;
    let code = clean_file_mappings(&[here, library], &maps);
    if code.is_empty() {
        return Err(maps.error(1, "the program's code is not there, or not as in its file"));
    }
    for part in code {
        let start = ptr::with_exposed_provenance_mut(part.start);
        // SAFETY: the mapping is of a file, cannot be written to, and has no page that differs
        // from the file's, so that whoever runs or reads it finds what was there before. It is
        // of the program itself or of the C library, and so not unmapped or changed since it
        // was looked for.
        if unsafe { libc::madvise(start, part.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(Error::io(path, io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// A mapping, as a line of `smaps` begins one.
struct Mapping<'a> {
    range: Range<usize>,
    /// Whether it can only be read or run.
    is_read_only: bool,
    /// The file's device and inode.
    file: (&'a str, &'a str),
    /// Whether no page of it differs from the file's.
    is_clean: bool,
}

/// Of the files that are mapped at these addresses all that cannot be written to, and has
/// no pages of its own, such as those with a debugger's break points.
fn clean_file_mappings(addresses: &[usize], smaps: &Text) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for mut line in smaps.lines() {
        let Some(first) = line.next_word() else {
            continue;
        };
        if let Some(range) = parse_range(first) {
            let rights = line.next_word();
            let _offset = line.next_word();
            let file = (line.next_word(), line.next_word());
            mappings.push(Mapping {
                range,
                is_read_only: matches!(rights, Some("r-xp" | "r--p")),
                file: (file.0.unwrap_or_default(), file.1.unwrap_or("0")),
                is_clean: false,
            });
        } else if first == "Anonymous:"
            && let Some(mapping) = mappings.last_mut()
        {
            mapping.is_clean = line.next_word() == Some("0");
        }
    }
    let is_at = |it: &&Mapping<'_>| addresses.iter().any(|at| it.range.contains(at));
    let files: Vec<_> = mappings.iter().filter(is_at).map(|it| it.file).collect();
    let of_them = mappings.iter().filter(|it| files.contains(&it.file));
    let kept = of_them.filter(|it| it.is_read_only && it.is_clean && it.file.1 != "0");
    kept.map(|it| it.range.clone()).collect()
}

/// `55d0c8a00000-55d0c8c00000`
fn parse_range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_kernel_stops_at_the_guard() {
        let mut guarded = GuardedBuffer::new(1).unwrap();
        let len = guarded.bytes().len();
        assert_eq!(len, rustix::param::page_size());
        assert!(guarded.bytes().iter().all(|b| *b == 0));
        guarded.bytes_mut().fill(7);

        // Two pages to write into the one there is.
        let (read, write) = io::pipe().unwrap();
        rustix::io::write(&write, &vec![9; 2 * len]).unwrap();
        // SAFETY: the guard is what is being tested; the kernel writes to the
        // mapping at most.
        let n = unsafe { libc::read(read.as_raw_fd(), guarded.start.as_ptr().cast(), 2 * len) };
        assert!(n <= isize::try_from(len).unwrap(), "{n}");
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_no_device() {
        let mut request = GuardedBuffer::new(1).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let name = "sixteen.letters.";
        let error =
            ethtool(file.as_fd(), name, EthtoolCommand::DriverInfo, &mut request).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error =
            ethtool(file.as_fd(), "lo", EthtoolCommand::DriverInfo, &mut request).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(request.bytes()[..4], 3_u32.to_ne_bytes());
    }

    #[test]
    fn only_code_as_it_is_in_its_file_is_let_go_of() {
        let code = |rights: &str, inode: u32, own: u32| {
            let text = format!(
                "1000-2000 r--p 00000000 fe:00 {inode} /x\nAnonymous: 0 kB\n\
                 2000-5000 {rights} 00001000 fe:00 {inode} /x\nRss: 8 kB\nAnonymous: {own} kB\n\
                 VmFlags: rd ex\n5000-6000 r--p 00004000 fe:00 {inode} /x\nAnonymous: 4 kB\n\
                 6000-7000 rw-p 00005000 fe:00 {inode} /x\nAnonymous: 0 kB\n\
                 7000-8000 r-xp 00004000 fe:00 8 /y\nAnonymous: 0 kB\n\
                 8000-9000 r-xp 00004000 fe:00 9 /z\nAnonymous: 0 kB\n"
            );
            clean_file_mappings(&[0x4fff, 0x8000], &text.as_str().into())
        };
        let (read, run, library) = (0x1000..0x2000, 0x2000..0x5000, 0x8000..0x9000);
        assert_eq!(code("r-xp", 7, 0), [read.clone(), run, library.clone()]);
        assert_eq!(code("rwxp", 7, 0), [read.clone(), library.clone()]);
        assert_eq!(code("r-xp", 7, 4), [read, library.clone()]);
        assert_eq!(code("r-xp", 0, 0), [library]);
        let text = "2000-5000 r-xp 0 fe:00 7 /x\n";
        assert!(clean_file_mappings(&[0x4fff], &text.into()).is_empty());
    }
}
