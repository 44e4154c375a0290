//! Bounds the supervisor's own memory: one heap for all threads, and nothing kept that only the start or an evolution
//! needed.

use std::ffi::{c_int, c_void};

/// One heap for all threads. The C library would give each thread that works beside the loop one of its own, and keep it.
pub fn share_one_heap() {
    // SAFETY: sets a number of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back what is not in use: freed memory, and the pages of code and constants, of which those that are still needed
/// come back from the page cache at their next use. Most of the program is for the start and for evolutions.
pub fn give_back() {
    // SAFETY: takes from the heap what nobody has.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the function has the type that is asked for, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_code), std::ptr::null_mut()) };
}

/// Unmaps the pages of the program's read-only segments. Those that can be written hold what relocation has changed, and
/// stay.
unsafe extern "C" fn forget_code(info: *mut libc::dl_phdr_info, _bytes: usize, _data: *mut c_void) -> c_int {
    const DONE: c_int = 1;
    // SAFETY: plain number.
    let Ok(page) = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return DONE };
    // SAFETY: the C library describes the program, whose headers are mapped as long as it runs.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // Whole pages of it alone.
        let from = (base + header.p_vaddr).div_ceil(page) * page;
        let to = (base + header.p_vaddr + header.p_memsz) / page * page;
        let bytes = usize::try_from(to.saturating_sub(from)).unwrap_or_default();
        // SAFETY: a private mapping of a file that nobody wrote to: what is unmapped is read from the file again.
        unsafe { libc::madvise(from as *mut c_void, bytes, libc::MADV_DONTNEED) };
    }
    // The program comes first; the kernel's own page, which may follow, is not ours.
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const PAGE_BYTES: usize = 4096;
    static CONSTANTS: [u8; 256 * PAGE_BYTES] = [7; 256 * PAGE_BYTES];

    /// How many pages of the constants this process has mapped, after pagemap(5): bit 63 of a page's entry.
    fn mapped() -> usize {
        let first = CONSTANTS.as_ptr() as usize / PAGE_BYTES;
        let mut entries = vec![0; CONSTANTS.len() / PAGE_BYTES * 8];
        std::fs::File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entries, first as u64 * 8).unwrap();
        entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count()
    }

    fn sum() -> usize {
        std::hint::black_box(&CONSTANTS).iter().map(|byte| usize::from(*byte)).sum()
    }

    #[test]
    fn what_was_read_once_is_unmapped_and_read_again() {
        assert_eq!(sum(), 7 * CONSTANTS.len());
        assert!(mapped() > 250, "{} pages", mapped());
        give_back();
        // Not none of them: where another thread uses what lies beside them, the kernel maps their edges with it
        // (`fault_around_bytes`, 64 KiB: 16 pages at either end).
        assert!(mapped() <= 32, "{} pages", mapped());
        assert_eq!(sum(), 7 * CONSTANTS.len());
    }
}
