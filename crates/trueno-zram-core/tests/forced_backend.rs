//! A forced backend really runs: the instructions themselves are looked at.
//!
//! A child process runs the function while this one steps it instruction by instruction and reads
//! how wide the vectors are. What libraries do (a `memcpy` may use AVX2 on its own account) is left
//! out by counting only instructions of this binary, which is compiled for plain x86-64.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ops::Range;
use trueno_zram_core::{Algorithm, Compressor, PAGE_SIZE, Page, Scratch, SimdBackend};

/// LZ4 on each backend that this CPU has.
fn compressors() -> impl Iterator<Item = (SimdBackend, Compressor)> {
    let available = SimdBackend::ALL.into_iter().filter(|b| b.is_available());
    available.map(|backend| {
        let builder = Compressor::builder().algorithm(Algorithm::Lz4);
        (backend, builder.backend(backend).build().unwrap())
    })
}

#[test]
fn the_search_for_same_filled_pages_uses_the_vectors_of_its_backend() {
    for (backend, compressor) in compressors() {
        let page = Page([9; PAGE_SIZE]);
        let widths = vector_widths(|| assert!(compressor.page_same_filled(&page).is_some()));
        // At least one instruction for each vector of the page.
        let all = |bytes: usize| PAGE_SIZE / bytes;
        match backend {
            SimdBackend::Scalar => assert_eq!((widths.ymm, widths.zmm), (0, 0)),
            SimdBackend::Avx2 => assert!(widths.ymm >= all(32) && widths.zmm == 0, "{widths:?}"),
            SimdBackend::Avx512 => assert!(widths.zmm >= all(64), "{widths:?}"),
            other => panic!("{other} on x86-64"),
        }
    }
}

#[test]
fn lz4_compares_with_the_vectors_of_its_backend() {
    // A match every 64 bytes, for each of which there is at least one comparison.
    let mut page = Page::ZERO;
    for (i, line) in page.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        line[40..].fill(i as u8);
    }
    for (backend, compressor) in compressors() {
        let mut scratch = Scratch::new();
        compressor.prepare(&mut scratch);
        let mut out = [0; 2 * PAGE_SIZE];
        let widths = vector_widths(|| {
            assert!(
                compressor
                    .compress_into(&page, &mut out, &mut scratch)
                    .is_some()
            );
        });
        match backend {
            SimdBackend::Scalar => assert_eq!((widths.ymm, widths.zmm), (0, 0)),
            SimdBackend::Avx2 => assert!(widths.ymm >= 60 && widths.evex == 0, "{widths:?}"),
            SimdBackend::Avx512 => assert!(widths.evex >= 60, "{widths:?}"),
            other => panic!("{other} on x86-64"),
        }
    }
}

/// Instructions of this binary by the width of their vectors.
#[derive(Debug, Default)]
struct Widths {
    ymm: usize,
    zmm: usize,
    /// Those that only AVX-512 has, of any width.
    evex: usize,
}

/// Runs `work` in a child process and looks at every instruction. It must not allocate or lock:
/// other threads of this process may have been holding anything when the child was made.
fn vector_widths(work: impl FnOnce()) -> Widths {
    let code = code_of_this_binary();
    // SAFETY: the child calls nothing but ptrace, raise, `work` and _exit before it ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // SAFETY: these calls take no pointers that are used.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            work();
            libc::_exit(0)
        }
    }

    let (mut widths, mut status) = (Widths::default(), 0);
    loop {
        // SAFETY: `status` may be written.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        if !libc::WIFSTOPPED(status) {
            break;
        }
        // SAFETY: the structure is plain numbers, for which zeros are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the child is stopped and ours to trace, and `registers` may be written.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &mut registers) };
        assert_eq!(got, 0, "the child cannot be traced");
        if code.iter().any(|range| range.contains(&registers.rip)) {
            // SAFETY: the child is stopped and ours to trace; a bad address is an error.
            let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, child, registers.rip, 0) };
            // Intel SDM volume 2, sections 2.3 and 2.7: in 64-bit mode these first bytes mean VEX
            // and EVEX and nothing else, and the length of the vector is in bit 2 of the last byte
            // of the VEX prefix, or in bits 5 and 6 of the last of the EVEX prefix.
            widths.evex += usize::from(word.to_le_bytes()[0] == 0x62);
            match word.to_le_bytes() {
                [0xc5, last, ..] | [0xc4, _, last, ..] if last & 4 != 0 => widths.ymm += 1,
                [0x62, _, _, last, ..] if last & 0x60 == 0x20 => widths.ymm += 1,
                [0x62, _, _, last, ..] if last & 0x60 == 0x40 => widths.zmm += 1,
                _ => {}
            }
        }
        // SAFETY: the child is stopped and ours to trace; no signal is passed on.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        assert_eq!(stepped, 0);
    }
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "status {status:#x}"
    );
    widths
}

/// Where the code of this binary lies, but for its libraries.
fn code_of_this_binary() -> Vec<Range<u64>> {
    let binary = std::env::current_exe().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let code: Vec<_> = maps
        .lines()
        .filter(|line| line.contains("r-xp") && line.ends_with(binary.to_str().unwrap()))
        .map(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap()
        })
        .collect();
    assert!(!code.is_empty(), "{maps}");
    code
}
