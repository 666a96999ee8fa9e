//! A log file that is moved aside when it is large, and whose old forms go in time. The names are upstream's
//! (lumberjack): `audit-2026-01-02T03-04-05.006.log` beside `audit.log`.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;

/// When a file is moved aside, and how long it stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rotation {
    /// Bytes at which the file is moved aside; 0: 100 MB.
    pub(crate) max_bytes: u64,
    /// How many old files stay; 0: all.
    pub(crate) max_backups: usize,
    /// How long they stay; zero: for ever.
    pub(crate) max_age: Duration,
}

/// `maxsize` where it is not set.
const MAX_BYTES: u64 = 100 << 20;

/// The file that is written to.
pub(crate) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    /// When a file was moved aside last.
    moved: Option<Timestamp>,
}

impl RotatingFile {
    /// Opens or makes a file that its owner alone may read.
    pub(crate) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), rotation, file, bytes, moved: None })
    }

    /// Appends whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let max = if self.rotation.max_bytes == 0 { MAX_BYTES } else { self.rotation.max_bytes };
        if self.bytes > 0 && self.bytes + lines.len() as u64 > max {
            self.rotate(Timestamp::now())?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        // Two in one millisecond must not become one, and their names tell which is older.
        let step = jiff::SignedDuration::from_millis(1);
        let mut at = self.moved.map_or(now, |last| now.max(last + step));
        while self.aside(at).exists() {
            at += step;
        }
        let aside = self.aside(at);
        self.moved = Some(at);
        fs::rename(&self.path, aside)?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        if let Err(error) = self.clean(now) {
            tracing::warn!(path = %self.path.display(), %error, "old audit logs were not removed");
        }
        Ok(())
    }

    fn stem(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension =
            self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        (stem, extension)
    }

    fn aside(&self, at: Timestamp) -> PathBuf {
        let (stem, extension) = self.stem();
        self.path.with_file_name(format!("{stem}-{}{extension}", at.strftime("%Y-%m-%dT%H-%M-%S.%3f")))
    }

    /// When a file beside ours was moved aside; `None`: it was not.
    fn moved_at(&self, name: &str) -> Option<Timestamp> {
        let (stem, extension) = self.stem();
        let text = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
        let at = DateTime::strptime("%Y-%m-%dT%H-%M-%S.%f", text).ok()?;
        at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
    }

    fn clean(&self, now: Timestamp) -> io::Result<()> {
        let directory = self.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<(Timestamp, PathBuf)> = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let Some(at) = self.moved_at(&entry.file_name().to_string_lossy()) {
                old.push((at, entry.path()));
            }
        }
        old.sort_by(|a, b| b.cmp(a));
        let Rotation { max_backups, max_age, .. } = self.rotation;
        for (index, (at, path)) in old.iter().enumerate() {
            let too_many = max_backups > 0 && index >= max_backups;
            let age = Duration::try_from(now.duration_since(*at)).unwrap_or_default();
            if too_many || (!max_age.is_zero() && age > max_age) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_large_file_is_moved_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs").join("audit.log");
        let rotation = Rotation { max_bytes: 10, max_backups: 2, max_age: Duration::ZERO };
        let mut file = RotatingFile::open(&path, rotation).unwrap();
        fs::write(path.with_file_name("audit-notes.log"), "not ours").unwrap();
        for line in
            ["one 678\n", "two 678\n", "three 8\n", "four 78\n", "a line that is longer than a file\n"]
        {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a line that is longer than a file\n");
        let found = names(path.parent().unwrap());
        assert_eq!(found.len(), 4, "{found:?}");
        let moved: Vec<&String> = found.iter().filter(|n| file.moved_at(n).is_some()).collect();
        let texts: Vec<String> =
            moved.iter().map(|n| fs::read_to_string(path.with_file_name(n)).unwrap()).collect();
        assert_eq!(texts, ["three 8\n", "four 78\n"]);
        for name in [&"audit.log".to_owned(), moved[0]] {
            let mode = fs::metadata(path.with_file_name(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn files_that_are_too_old_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let rotation = Rotation { max_bytes: 1, max_backups: 0, max_age: Duration::from_secs(86_400) };
        let mut file = RotatingFile::open(&path, rotation).unwrap();
        let now: Timestamp = "2026-05-10T00:00:00Z".parse().unwrap();
        for day in ["2026-05-08T23-59-59.000", "2026-05-09T00-00-01.000"] {
            fs::write(dir.path().join(format!("audit-{day}.log")), "").unwrap();
        }
        file.rotate(now).unwrap();
        assert_eq!(
            names(dir.path()),
            ["audit-2026-05-09T00-00-01.000.log", "audit-2026-05-10T00-00-00.000.log", "audit.log"]
        );
    }

    #[test]
    fn a_restart_goes_on_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        for line in ["a\n", "b\n"] {
            RotatingFile::open(&path, Rotation::default()).unwrap().write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }
}
