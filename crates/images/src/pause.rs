//! The process that holds a pod's namespaces: waits to be told to end, and reaps what it inherits.
//!
//! There is one for every pod of a machine, so its memory counts. On x86-64 it is 128 bytes of machine code in an ELF
//! file of one segment: a page or two of memory, where starting the whole binary touches megabytes to relocate itself.
//! Elsewhere the image runs [`pause`].

#[cfg(any(target_arch = "x86_64", test))]
mod x86_64 {
    /// What the process does, as `objdump -d` would show it:
    ///
    /// ```text
    /// 00  mov $13,%eax; mov $17,%edi; lea 0x60(start),%rsi; xor %edx,%edx; mov $8,%r10d; syscall
    ///       rt_sigaction(SIGCHLD, {SIG_IGN}): the kernel reaps orphans by itself
    /// 1b  mov $14,%eax; xor %edi,%edi; lea 0x58(start),%rsi; xor %edx,%edx; mov $8,%r10d; syscall
    ///       rt_sigprocmask(SIG_BLOCK, {SIGINT, SIGTERM})
    /// 33  mov $128,%eax; lea 0x58(start),%rdi; xor %esi,%esi; xor %edx,%edx; mov $8,%r10d; syscall
    ///       rt_sigtimedwait({SIGINT, SIGTERM}, no info, no timeout)
    /// 4b  test %eax,%eax; js 0x33        again, if something else woke it
    /// 4f  mov $60,%eax; xor %edi,%edi; syscall        exit(0)
    /// 58  the set {SIGINT, SIGTERM};  60  {SIG_IGN, no flags, no restorer, empty mask}
    /// ```
    const CODE: [u8; 128] = [
        0xb8, 0x0d, 0x00, 0x00, 0x00, 0xbf, 0x11, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x35, 0x4f, 0x00,
        0x00, //
        0x00, 0x31, 0xd2, 0x41, 0xba, 0x08, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xb8, 0x0e, 0x00, 0x00,
        0x00, //
        0x31, 0xff, 0x48, 0x8d, 0x35, 0x2f, 0x00, 0x00, 0x00, 0x31, 0xd2, 0x41, 0xba, 0x08, 0x00,
        0x00, //
        0x00, 0x0f, 0x05, 0xb8, 0x80, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x3d, 0x19, 0x00, 0x00, 0x00,
        0x31, //
        0xf6, 0x31, 0xd2, 0x41, 0xba, 0x08, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x85, 0xc0, 0x78, 0xe4,
        0xb8, //
        0x3c, 0x00, 0x00, 0x00, 0x31, 0xff, 0x0f, 0x05, 0x02, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, //
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, //
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, //
    ];

    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    const MACHINE: u16 = 62;

    /// An ELF file of one loaded segment, readable and executable, that starts at its first instruction.
    pub(super) fn program() -> Vec<u8> {
        let size = HEADERS + CODE.len() as u64;
        let mut elf = Vec::with_capacity(size as usize);
        // Identification: 64 bits, little-endian, version 1, System V.
        elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for half in [2_u16, MACHINE] {
            elf.extend_from_slice(&half.to_le_bytes()); // executable, for this machine
        }
        elf.extend_from_slice(&1_u32.to_le_bytes());
        for long in [BASE + HEADERS, 64, 0] {
            elf.extend_from_slice(&long.to_le_bytes()); // entry, program headers, no sections
        }
        elf.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 0, 0, 0] {
            elf.extend_from_slice(&half.to_le_bytes());
        }
        // The one program header: load, read and execute.
        for word in [1_u32, 5] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
        for long in [0, BASE, BASE, size, size, 0x1000] {
            elf.extend_from_slice(&long.to_le_bytes());
        }
        elf.extend_from_slice(&CODE);
        elf
    }
}

/// The pause program as an executable file, where this machine has a small one.
pub fn pause_program() -> Option<Vec<u8>> {
    #[cfg(target_arch = "x86_64")]
    return Some(x86_64::program());
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Waits for SIGINT or SIGTERM and exits with 0; reaps the children it inherits meanwhile.
pub fn pause() -> ! {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child = signal(SignalKind::child())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = child.recv() => {
                    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
                }
            }
        }
    };
    let ended: std::io::Result<()> = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .and_then(|runtime| runtime.block_on(wait));
    std::process::exit(i32::from(ended.is_err()))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::{
        fs, os::unix::fs::PermissionsExt as _, os::unix::process::ExitStatusExt as _, process::Command,
    };

    /// A running pause program; ends with the test, however that ends.
    struct Running {
        _dir: tempfile::TempDir,
        child: std::process::Child,
    }

    impl Running {
        fn start() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("pause");
            fs::write(&path, super::pause_program().expect("a program")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
            let child = Command::new(&path).spawn().expect("it runs");
            Self { _dir: dir, child }
        }

        /// Waits until it has come to its wait (rt_sigtimedwait is call 128), and answers its status.
        fn status(&self) -> String {
            let proc = |file: &str| {
                fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
                    .expect("it lives, and we are root")
            };
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !proc("syscall").starts_with("128 ") {
                assert!(std::time::Instant::now() < deadline, "{}", proc("status"));
                std::thread::yield_now();
            }
            proc("status")
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        status.lines().find_map(|l| l.strip_prefix(name)).expect("a field").trim()
    }

    #[test]
    fn ends_when_told_and_is_tiny() {
        for signal in ["TERM", "INT"] {
            let mut pause = Running::start();
            let status = pause.status();
            let kib: u64 = field(&status, "VmRSS:").trim_end_matches(" kB").parse().expect("a number");
            assert!(kib < 256, "{kib} KiB");
            let ignored = u64::from_str_radix(field(&status, "SigIgn:"), 16).expect("a mask");
            assert_ne!(ignored & 1 << 16, 0, "SIGCHLD is ignored, so orphans are reaped");
            let pid = pause.child.id().to_string();
            assert!(Command::new("kill").args(["-s", signal, &pid]).status().expect("kill").success());
            assert_eq!(pause.child.wait().expect("it ends").code(), Some(0));
        }
    }

    #[test]
    fn other_signals_have_their_usual_effect() {
        let mut pause = Running::start();
        pause.status();
        pause.child.kill().expect("killed");
        assert_eq!(pause.child.wait().expect("it ends").signal(), Some(9));
    }
}
