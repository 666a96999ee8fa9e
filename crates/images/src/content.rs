//! What lies in the layer that the hello image runs from: the binary, the libraries it needs, a shell.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::layer::{Entry, Layer};

/// What the images are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The program that goes in as `/cox`.
    pub binary: PathBuf,
    /// A busybox for a shell and its friends inside, if the host has one.
    pub busybox: Option<PathBuf>,
    /// Tag of the images.
    pub version: String,
}

impl Source {
    /// The running program, the host's busybox, this build's version.
    pub fn of_this_host() -> io::Result<Self> {
        Ok(Self {
            binary: std::env::current_exe()?,
            busybox: ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|p| p.is_file()),
            version: crate::VERSION.to_owned(),
        })
    }
}

pub(crate) fn pause_layer(program: Vec<u8>) -> Layer {
    let mut layer = Layer::default();
    layer.add("/pause", Entry::Bytes { content: program, mode: 0o755 });
    layer
}

pub(crate) fn base_layer(source: &Source) -> io::Result<Layer> {
    let mut layer = Layer::default();
    layer.add("/cox", Entry::Copy { from: source.binary.clone(), mode: 0o755 });
    add_libraries(&mut layer, &source.binary)?;
    if let Some(busybox) = &source.busybox {
        layer.add("/bin/busybox", Entry::Copy { from: busybox.clone(), mode: 0o755 });
        add_libraries(&mut layer, busybox)?;
        let listed = Command::new(busybox).arg("--list").output()?;
        for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|a| is_applet(a)) {
            layer.add(&format!("/bin/{applet}"), Entry::Link { target: "busybox".into() });
        }
    }
    let text = |content: &str| Entry::Bytes { content: content.as_bytes().to_vec(), mode: 0o644 };
    layer.add(
        "/etc/passwd",
        text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    );
    layer.add("/etc/group", text("root:x:0:\nnogroup:x:65534:\n"));
    layer.add("/etc/nsswitch.conf", text("passwd: files\ngroup: files\nhosts: files dns\n"));
    layer.add("/root", Entry::Directory { mode: 0o700 });
    layer.add("/tmp", Entry::Directory { mode: 0o1777 });
    layer.add("/var/tmp", Entry::Directory { mode: 0o1777 });
    Ok(layer)
}

fn is_applet(name: &str) -> bool {
    name != "busybox" && !name.is_empty() && !name.contains('/') && !name.starts_with('.')
}

/// Adds the loader of a dynamically linked program and every library it resolves, at the paths they have here.
fn add_libraries(layer: &mut Layer, program: &Path) -> io::Result<()> {
    let Some(loader) = interpreter(program)? else {
        return Ok(());
    };
    // Its real place is what the entry holds; the name the program was linked with is what the kernel looks for.
    layer.add(&loader, Entry::Copy { from: PathBuf::from(&loader), mode: 0o755 });
    let listed = Command::new(&loader).arg("--list").arg(program).output()?;
    if !listed.status.success() {
        let why = String::from_utf8_lossy(&listed.stderr).trim().to_owned();
        return Err(io::Error::other(format!(
            "{loader} cannot list the libraries of {}: {why}",
            program.display()
        )));
    }
    for library in parse_libraries(&String::from_utf8_lossy(&listed.stdout)) {
        layer.add(library, Entry::Copy { from: PathBuf::from(library), mode: 0o755 });
    }
    Ok(())
}

/// The paths in the loader's list (`libc.so.6 => /lib/libc.so.6 (0x…)`).
fn parse_libraries(listed: &str) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| line.split_once("=> ")?.1.split(" (").next())
        .map(str::trim)
        .filter(|path| path.starts_with('/'))
        .collect()
}

/// The loader that an ELF file of 64 bits asks for; `None` for one that needs none.
fn interpreter(program: &Path) -> io::Result<Option<String>> {
    // Headers and loader name lie at the start of what any linker writes.
    let mut head = Vec::new();
    File::open(program)?.take(64 * 1024).read_to_end(&mut head)?;
    Ok(parse_interpreter(&head))
}

fn parse_interpreter(elf: &[u8]) -> Option<String> {
    const INTERPRETER: u64 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes.get_mut(..size)?.copy_from_slice(elf.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    if elf.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let table = usize::try_from(number(32, 8)?).ok()?;
    let entry_size = usize::try_from(number(54, 2)?).ok()?;
    let count = usize::try_from(number(56, 2)?).ok()?;
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        if number(at, 4)? == INTERPRETER {
            let start = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let size = usize::try_from(number(at.checked_add(32)?, 8)?).ok()?;
            let name = elf.get(start..start.checked_add(size)?)?;
            let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
            return name.starts_with('/').then(|| name.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_loaders_list() {
        let listed = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f6f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 => /lib64/ld-linux-x86-64.so.2 (0x7f6f)\n\tlibx.so => not found\n";
        assert_eq!(
            parse_libraries(listed),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }

    #[test]
    fn tells_static_programs_from_dynamic_ones() {
        let own = std::env::current_exe().expect("a program");
        let loader = interpreter(&own).expect("readable").expect("the tests are linked dynamically");
        assert!(Path::new(&loader).is_file(), "{loader}");
        if let Some(program) = crate::pause_program() {
            assert_eq!(parse_interpreter(&program), None);
        }
        assert_eq!(parse_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(parse_interpreter(&[0x7f, b'E', b'L', b'F', 2, 1, 0xff, 0xff]), None);
    }
}
