//! What the fuzzer and a property test run: any bytes, taken for files of a store, are read or refused, never more.

use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use super::frame::{self, FileKind, Header};
use super::image::Image;
use super::recover::{Keep, State};
use super::snapshot;

/// Reads bytes as the files of a store. Panics when what was accepted cannot be written and read again.
///
/// The first byte says how: as they are, or as the payloads of frames whose checksums are right.
pub fn read_anything(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let path = Path::new("fuzzed");
    let now = Instant::now();
    let kind = [FileKind::Log, FileKind::Snapshot, FileKind::Backup][usize::from(how % 3)];
    let whole = match how / 3 % 3 {
        0 => rest.to_vec(),
        1 => sealed(kind, [rest].into_iter()),
        _ => sealed(kind, rest.split(|byte| *byte == 0xFF)),
    };
    let number = 0;
    let size = whole.len() as u64;
    let image = if kind == FileKind::Log {
        let mut state = State::empty(now);
        let Ok(_) = state.replay((Cursor::new(&whole), size), path, number, Keep::Nothing) else { return };
        Image::from_parts(state.index, &state.leases, now)
    } else {
        let Ok(loaded) = snapshot::load((Cursor::new(&whole), size), path, kind, number, now) else { return };
        Image::from_parts(loaded.index, &loaded.leases, now)
    };
    assert_eq!(image.prefix("").count() as u64, image.len(), "the count of keys is right");
    for kv in image.prefix("") {
        assert_eq!(image.get(&kv.key).as_ref(), Some(&kv));
    }
    image.problems();
}

/// A file with a right header and right checksums around these payloads.
fn sealed<'a>(kind: FileKind, payloads: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let header = Header::new(kind, 0, 0);
    let mut whole = header.encode().to_vec();
    let mut out = Vec::new();
    for (number, payload) in payloads.enumerate() {
        frame::begin(&mut out, header.salt, number as u64);
        out.extend_from_slice(payload);
        frame::seal(&mut out);
        whole.extend_from_slice(&out);
    }
    whole
}
