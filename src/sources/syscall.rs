//! System and libc calls that `rustix` lacks: the only unsafe code of this crate, apart from
//! builds with the feature `virt` (`libvirt/virt/ffi.rs`).
//!
//! All functions return plain values or bytes. Bytes are parsed elsewhere, in safe code.

#![expect(unsafe_code, reason = "no safe API exists for these calls")]

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

/// Reads the state of the kernel clock without changing it.
///
/// The number is the clock state, `TIME_OK` to `TIME_ERROR`.
pub(super) fn adjtimex() -> io::Result<(libc::c_int, libc::timex)> {
    // SAFETY: all fields of `timex` are integers, for which zero is valid. Zero in `modes` means
    // that nothing is set.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is valid for the one `timex` that the kernel writes.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((state, timex))
}

/// Returns the name of the local time zone at a time in seconds since the Unix epoch, and its
/// offset to UTC in seconds.
pub(super) fn local_time_zone(seconds: i64) -> Option<(String, i64)> {
    let time = libc::time_t::try_from(seconds).ok()?;
    // SAFETY: all fields of `tm` are integers or a pointer, which may be null.
    let mut parts: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both pointers are valid and of the expected types. The function reads the
    // environment, which this process never writes.
    let filled = unsafe { libc::localtime_r(&raw const time, &raw mut parts) };
    if filled.is_null() || parts.tm_zone.is_null() {
        return None;
    }
    // SAFETY: it points to a C string of the library, valid until the time zone is set again,
    // which happens only when the environment changes.
    let name = unsafe { CStr::from_ptr(parts.tm_zone) };
    let name = name.to_string_lossy().into_owned();
    #[allow(clippy::useless_conversion, reason = "i32 on other platforms")]
    Some((name, i64::from(parts.tm_gmtoff)))
}

/// A buffer followed by an inaccessible guard page.
///
/// Some requests make the kernel write its full response, whatever buffer size was passed. With
/// the guard, it stops at the end of the buffer with `EFAULT`.
#[derive(Debug)]
pub(super) struct GuardedBuffer {
    start: NonNull<u8>,
    len: usize,
    /// Length including the guard.
    mapped: usize,
}

impl GuardedBuffer {
    /// Allocates at least `len` zeroed bytes. Pages that are never written use no memory.
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
        // SAFETY: a new mapping at an address chosen by the kernel affects no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let guarded = Self { start, len, mapped };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: `len` bytes from `start` are inside of the mapping created above.
        if unsafe { libc::mprotect(start.as_ptr().cast(), len, access) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(guarded)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are mapped while `self` lives, were zeroed, and are written only
        // through `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` guarantees exclusive access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for GuardedBuffer {
    fn drop(&mut self) {
        // SAFETY: this is the mapping created by `new`, and no borrow of it remains. An error
        // cannot be handled.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

/// Requests to a network interface, from `linux/ethtool.h`. All are read-only and contain no
/// pointers.
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

/// Missing in some versions of `libc`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Sends a request to a network interface. `request` contains the request and afterwards the
/// response; the command is written to its first four bytes.
pub(super) fn ethtool(
    socket: BorrowedFd<'_>,
    interface: &str,
    cmd: EthtoolCommand,
    request: &mut GuardedBuffer,
) -> io::Result<()> {
    if let Some(command) = request.bytes_mut().first_chunk_mut() {
        *command = (cmd as u32).to_ne_bytes();
    }
    // SAFETY: `ifreq` is an array and a union of integers and pointers, for all of which zero is
    // valid.
    let mut ifreq: libc::ifreq = unsafe { mem::zeroed() };
    // One byte remains for the terminating zero.
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (dst, src) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *dst = libc::c_char::from_ne_bytes([src]);
    }
    ifreq.ifr_ifru.ifru_data = request.start.as_ptr().cast();
    // SAFETY: the pointer is valid for the one `ifreq` that the kernel reads and writes, and so is
    // the memory at `ifru_data`: it is mutably borrowed here, and its guard page stops a response
    // of any length.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes all threads share one malloc arena, and large allocations come directly from the kernel.
///
/// Setting that threshold explicitly disables its dynamic increase to the largest allocation
/// freed.
pub(super) fn limit_malloc_arenas() {
    const LARGE: libc::c_int = 1 << 20;
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: it takes two integers, and rejects unknown values.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Returns freed memory to the kernel.
pub(super) fn malloc_trim() {
    // SAFETY: it affects only memory that is not allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Drops the code pages of this program and of the C library. The kernel maps them again, from the
/// file or the page cache, when they are executed or read.
pub(super) fn discard_clean_code_pages() -> Result<()> {
    let path = Path::new("/proc/self/smaps");
    let maps = dir::read(path)?;
    // Addresses of this function and of a library function: neither file is ever unmapped.
    let program = discard_clean_code_pages as fn() -> Result<()> as usize;
    let library = libc::getpid as unsafe extern "C" fn() -> libc::pid_t as usize;
    let code = clean_file_mappings(&[program, library], &maps);
    if code.is_empty() {
        return Err(maps.error(1, "no unmodified code mapping found"));
    }
    for range in code {
        let start = ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the mapping is of a file, is not writable, and has no page that differs from the
        // file, so later accesses find the same content. It belongs to the program itself or to
        // the C library, and was therefore not unmapped or changed since it was looked up.
        if unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(Error::io(path, io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// A mapping, from its first line in `smaps`.
struct Mapping<'a> {
    range: Range<usize>,
    /// Whether it is not writable.
    is_read_only: bool,
    /// Device and inode of the file.
    file: (&'a str, &'a str),
    /// Whether none of its pages differs from the file.
    is_clean: bool,
}

/// Returns all mappings, of the files mapped at these addresses, that are not writable and have no
/// private pages, such as those with a debugger's breakpoints.
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
    let contains_address = |mapping: &&Mapping<'_>| {
        addresses
            .iter()
            .any(|address| mapping.range.contains(address))
    };
    let files: Vec<_> = mappings
        .iter()
        .filter(contains_address)
        .map(|mapping| mapping.file)
        .collect();
    let same_file = mappings
        .iter()
        .filter(|mapping| files.contains(&mapping.file));
    let clean = same_file
        .filter(|mapping| mapping.is_read_only && mapping.is_clean && mapping.file.1 != "0");
    clean.map(|mapping| mapping.range.clone()).collect()
}

/// Parses `55d0c8a00000-55d0c8c00000`.
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
    fn kernel_stops_writing_at_the_guard() {
        let mut guarded = GuardedBuffer::new(1).unwrap();
        let len = guarded.bytes().len();
        assert_eq!(len, rustix::param::page_size());
        assert!(guarded.bytes().iter().all(|b| *b == 0));
        guarded.bytes_mut().fill(7);

        // Two pages of data for a buffer of one page.
        let (read, write) = io::pipe().unwrap();
        rustix::io::write(&write, &vec![9; 2 * len]).unwrap();
        // SAFETY: the kernel writes at most to the mapping; this tests that the guard stops it.
        let n = unsafe { libc::read(read.as_raw_fd(), guarded.start.as_ptr().cast(), 2 * len) };
        assert!(n <= isize::try_from(len).unwrap(), "{n}");
    }

    #[test]
    fn impossible_interface_name_is_no_device() {
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
    fn only_unmodified_code_pages_are_discarded() {
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
