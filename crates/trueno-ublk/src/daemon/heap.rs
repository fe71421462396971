//! A heap that knows which threads must not use it.
//!
//! A thread that serves swap may not allocate: the allocator may be waiting for just this thread
//! to write a page. [`GuardedHeap`] is the system's heap with a flag per thread; each use under
//! the flag is counted, and ends the process where [`ABORT_VARIABLE`] asks for it (tests do).

use super::sys;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The environment variable that, set to `abort`, makes a forbidden use end the process.
pub const ABORT_VARIABLE: &str = "TRUENO_HEAP_GUARD";

thread_local! {
    /// Constant at first and without destructor, so that reading it allocates nothing itself.
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

static USES: AtomicU64 = AtomicU64::new(0);
static ABORT: AtomicBool = AtomicBool::new(false);

/// The system's heap, watched. The binary makes it its `#[global_allocator]`.
pub struct GuardedHeap;

// SAFETY: every call goes to `System` unchanged; watching it touches no memory of the heap.
unsafe impl GlobalAlloc for GuardedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        watch();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watch();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Notes a use of the heap by a thread that must not.
fn watch() {
    if FORBIDDEN.get() {
        USES.fetch_add(1, Relaxed);
        if ABORT.load(Relaxed) {
            sys::emergency(format_args!(
                "trueno-ublk: a thread that serves I/O used the heap\n"
            ));
            std::process::abort();
        }
    }
}

/// Reads [`ABORT_VARIABLE`]. To be called once, before there are threads.
pub fn arm() {
    ABORT.store(
        std::env::var_os(ABORT_VARIABLE).is_some_and(|value| value == "abort"),
        Relaxed,
    );
}

/// From here on the calling thread must not use the heap.
pub fn forbid() {
    FORBIDDEN.set(true);
}

/// The calling thread may use the heap again.
pub fn allow() {
    FORBIDDEN.set(false);
}

/// How often a thread used the heap that must not, since the process began.
pub fn forbidden_uses() -> u64 {
    USES.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static HEAP: GuardedHeap = GuardedHeap;

    #[test]
    fn a_use_of_the_heap_is_counted_in_flagged_threads_only() {
        let before = forbidden_uses();
        drop(std::hint::black_box(Box::new(1)));
        assert_eq!(forbidden_uses(), before);
        forbid();
        drop(std::hint::black_box(Box::new(1)));
        allow();
        // One to take it, one to give it back; other threads of this test are never flagged.
        assert_eq!(forbidden_uses(), before + 2);
    }
}
