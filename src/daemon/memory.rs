//! Bounds the supervisor's own memory: one heap for all threads, and memory that only the start or an evolution needed
//! is given back to the kernel.

use std::ffi::{c_int, c_void};

/// Makes all threads use one heap. Otherwise the C library would give each thread beside the loop a heap of its own,
/// and never free it.
pub fn share_one_heap() {
    // SAFETY: the call only sets a number of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives unused memory back to the kernel: freed memory, and the pages of code and constants. A page that is needed
/// again comes back from the page cache at its next use. Most of the program serves only the start and evolutions.
pub fn give_back() {
    // SAFETY: the call only releases free memory of the heap.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the callback has the required type, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_code), std::ptr::null_mut()) };
}

/// Unmaps the pages of the program's read-only segments. Writable segments stay, because relocation has changed them.
unsafe extern "C" fn forget_code(info: *mut libc::dl_phdr_info, _bytes: usize, _data: *mut c_void) -> c_int {
    const DONE: c_int = 1;
    // SAFETY: the argument is a plain number.
    let Ok(page) = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return DONE };
    // SAFETY: the C library passes the description of the program, whose headers are mapped as long as it runs.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // Only pages that lie completely in the segment.
        let from = (base + header.p_vaddr).div_ceil(page) * page;
        let to = (base + header.p_vaddr + header.p_memsz) / page * page;
        let bytes = usize::try_from(to.saturating_sub(from)).unwrap_or_default();
        // SAFETY: the pages are a private mapping of a file and were never written: the kernel reads them from the file
        // again.
        unsafe { libc::madvise(from as *mut c_void, bytes, libc::MADV_DONTNEED) };
    }
    // The program comes first. Later entries, such as the kernel's own page, do not belong to the program.
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const PAGE_BYTES: usize = 4096;
    static CONSTANTS: [u8; 256 * PAGE_BYTES] = [7; 256 * PAGE_BYTES];

    /// The number of pages of the constants that this process has mapped. See pagemap(5): it is bit 63 of a page's
    /// entry.
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
    fn constants_that_were_read_are_unmapped_and_can_be_read_again() {
        assert_eq!(sum(), 7 * CONSTANTS.len());
        assert!(mapped() > 250, "{} pages", mapped());
        give_back();
        // Some pages may stay mapped: if another thread uses memory next to the constants, the kernel also maps their
        // edges (`fault_around_bytes`, 64 KiB: 16 pages at either end).
        assert!(mapped() <= 32, "{} pages", mapped());
        assert_eq!(sum(), 7 * CONSTANTS.len());
    }
}
