//! Containers' logs, sent as asked for, and followed as they grow.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use inotify::WatchMask;
use jiff::Timestamp;
use streaming::{Body, body};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::actual::Phase;
use crate::file_watch::FileWatch;
use crate::pod::{PodExt, Role};
use crate::server::log_lines::{Filter, Options};
use crate::shared::Shared;
use crate::worker::View;

/// The longest line that is read at once; the runtime splits longer ones itself.
const LINE_LIMIT: u64 = 1 << 20;
/// How much is sent at once.
const CHUNK: usize = 32 * 1024;
/// How many chunks wait for a slow reader.
const WAITING: usize = 4;

/// Where the last `lines` lines begin.
fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut at = end;
    let mut block = vec![0; 8192];
    // Entries that continue belong to the line that ends them.
    let mut counted_end = false;
    while at > 0 {
        let size = block.len().min(usize::try_from(at).unwrap_or(block.len()));
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block[..size])?;
        for index in (0..size).rev() {
            if block[index] != b'\n' {
                continue;
            }
            let position = at + index as u64;
            if position + 1 == end && !counted_end {
                counted_end = true;
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(position + 1);
            }
        }
    }
    Ok(0)
}

/// The last lines of a log as text, for termination messages.
pub fn tail_text(path: &Path, lines: usize, limit: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(file);
        let mut filter = Filter::new(&Options::default());
        let (mut out, mut line) = (Vec::new(), Vec::new());
        while (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line)? > 0 {
            filter.pass(&line, &mut out);
            line.clear();
            if out.len() > 4 * limit {
                out.drain(..out.len() - limit);
            }
        }
        Ok(out)
    };
    let text = read().unwrap_or_default();
    let start = text.len().saturating_sub(limit);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

type Sink = mpsc::Sender<Bytes>;

struct Source {
    path: PathBuf,
    options: Options,
    alive: Box<dyn Fn() -> bool + Send>,
}

impl Source {
    /// Sends what is there; answers the reader, standing at the end.
    fn open(&self) -> io::Result<BufReader<File>> {
        let mut file = File::open(&self.path)?;
        let start = match self.options.tail {
            Some(lines) => tail_offset(&mut file, lines)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::with_capacity(CHUNK, file))
    }

    async fn send(self, sink: Sink, stop: CancellationToken) -> io::Result<()> {
        // The watch comes first, or what is written in between would wait for the next line.
        let mut events = if self.options.follow { watch(&self.path) } else { None };
        let mut reader = self.open()?;
        let mut filter = Filter::new(&self.options);
        let mut line = Vec::new();
        loop {
            // Whether the container lives is asked before reading, so that its last words are read too.
            let alive = (self.alive)();
            if !pump(&mut reader, &mut filter, &mut line, &sink).await? || !self.options.follow {
                return Ok(());
            }
            if rotated(&self.path, reader.get_ref()) {
                pump(&mut reader, &mut filter, &mut line, &sink).await?;
                if let Ok(file) = File::open(&self.path) {
                    reader = BufReader::with_capacity(CHUNK, file);
                    events = watch(&self.path);
                    continue;
                }
            }
            if !alive {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sink.closed() => return Ok(()),
                () = changed(&mut events) => {}
                // The end of a container is no event of its log file.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
}

fn rotated(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => named.ino() != open.ino(),
        _ => false,
    }
}

/// Sends all whole lines that are there; false once the reader has had enough.
async fn pump(
    reader: &mut BufReader<File>,
    filter: &mut Filter,
    line: &mut Vec<u8>,
    sink: &Sink,
) -> io::Result<bool> {
    let mut chunk = Vec::new();
    loop {
        let read = (&mut *reader).take(LINE_LIMIT).read_until(b'\n', line)?;
        let whole = line.ends_with(b"\n") || line.len() as u64 >= LINE_LIMIT;
        if whole {
            filter.pass(line, &mut chunk);
            line.clear();
        }
        let done = read == 0 || !whole;
        let due = (done || chunk.len() >= CHUNK || filter.is_full()) && !chunk.is_empty();
        if due && sink.send(Bytes::from(std::mem::take(&mut chunk))).await.is_err() {
            return Ok(false);
        }
        if filter.is_full() {
            return Ok(false);
        }
        if done {
            return Ok(true);
        }
    }
}

fn watch(path: &Path) -> Option<FileWatch> {
    FileWatch::new(
        path,
        WatchMask::MODIFY | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF | WatchMask::ATTRIB,
    )
    .ok()
}

async fn changed(events: &mut Option<FileWatch>) {
    let seen = match events {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    };
    if seen.is_err() {
        *events = None;
    }
}

fn bad_request(message: &str) -> Response<Body> {
    body::text(StatusCode::BAD_REQUEST, message)
}

/// Answers `/containerLogs/{namespace}/{pod}/{container}`.
pub async fn serve(
    shared: &std::sync::Arc<Shared>,
    view: &View,
    container: &str,
    query: &str,
    stop: CancellationToken,
) -> Response<Body> {
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(error) => return body::text(StatusCode::UNPROCESSABLE_ENTITY, &error),
    };
    let Some(pod) = &view.pod else { return body::text(StatusCode::NOT_FOUND, "pod does not exist") };
    let ephemeral = pod.spec().ephemeral_containers.iter().flatten().any(|known| known.name == container);
    if pod.container(container).is_none() && !ephemeral {
        return body::text(
            StatusCode::NOT_FOUND,
            &format!("container {container:?} not found in pod {:?}", pod.name()),
        );
    }
    let mut history = view.actual.history(container);
    let current = history.next();
    let chosen =
        if options.previous { history.find(|record| record.phase == Phase::Exited) } else { current };
    let Some(record) = chosen.filter(|record| record.phase != Phase::Created) else {
        return bad_request(&absent(view, container, options.previous));
    };
    let path = PathBuf::from(&record.log_path);
    let (cri, id) = (shared.cri.clone(), record.id.clone());
    let (sender, alive) = tokio::sync::watch::channel(record.phase == Phase::Running);
    let (sink, chunks) = mpsc::channel(WAITING);
    let source = Source { path, alive: Box::new(move || *alive.borrow()), options: options.clone() };
    let printed = format!("{}/{}", pod.printed(), container);
    tokio::spawn(async move {
        let watched = async {
            // Only a follower needs to know when the container ends.
            while options.follow && *sender.borrow() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let running = cri
                    .container_status(&id)
                    .await
                    .is_ok_and(|status| status.state == cri::v1::ContainerState::ContainerRunning as i32);
                sender.send_replace(running);
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            sent = source.send(sink, stop) => if let Err(error) = sent {
                tracing::debug!(container = printed, error = %error, "log not read");
            },
            () = watched => {}
        }
    });
    let stream = tokio_stream_of(chunks).map(|chunk| Ok(hyper::body::Frame::data(chunk)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

fn tokio_stream_of(chunks: mpsc::Receiver<Bytes>) -> impl futures::Stream<Item = Bytes> {
    futures::stream::unfold(
        chunks,
        |mut chunks| async move { chunks.recv().await.map(|chunk| (chunk, chunks)) },
    )
}

/// Why there is no log, in upstream's words.
fn absent(view: &View, container: &str, previous: bool) -> String {
    let pod = view.pod.as_ref().map(|pod| pod.name().to_owned()).unwrap_or_default();
    if previous {
        return format!("previous terminated container {container:?} in pod {pod:?} not found");
    }
    let status = view.pod.as_ref().and_then(|pod| pod.status.as_ref());
    let init = view
        .pod
        .as_ref()
        .and_then(|pod| pod.container(container).map(|(role, _)| matches!(role, Role::Init | Role::Sidecar)));
    let list = status.and_then(|status| {
        if init == Some(true) {
            status.init_container_statuses.as_ref()
        } else {
            status.container_statuses.as_ref()
        }
    });
    let waiting = list
        .and_then(|list| list.iter().find(|status| status.name == container))
        .and_then(|status| status.state.as_ref()?.waiting.as_ref())
        .and_then(|waiting| waiting.reason.clone());
    match waiting.as_deref() {
        Some("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName") => {
            format!(
                "container {container:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
            )
        }
        Some(reason) => format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
        None => format!("container {container:?} in pod {pod:?} is not available"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "\
2026-01-01T00:00:01.5Z stdout F one\n\
2026-01-01T00:00:02Z stderr F two\n\
2026-01-01T00:00:03Z stdout P thr\n\
2026-01-01T00:00:03Z stdout F ee\n\
garbage\n\
2026-01-01T00:00:04Z stdout F \n";

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("log");
        let options = Options::parse(query, "2026-01-01T00:00:05Z".parse().expect("time")).expect("options");
        let (sink, mut chunks) = mpsc::channel(16);
        let source = Source { path, options, alive: Box::new(|| false) };
        source.send(sink, CancellationToken::new()).await.expect("sent");
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8(all).expect("text")
    }

    #[tokio::test]
    async fn logs_are_cut_as_asked() {
        assert_eq!(read("").await, "one\ntwo\nthree\n\n");
        assert_eq!(read("tailLines=1").await, "\n");
        assert_eq!(read("tailLines=0").await, "");
        assert_eq!(read("tailLines=100&stream=Stderr").await, "two\n");
        assert_eq!(read("limitBytes=5").await, "one\nt");
        assert_eq!(read("sinceSeconds=2").await, "three\n\n");
        assert_eq!(read("sinceTime=2026-01-01T00%3A00%3A04Z").await, "\n");
        assert_eq!(read("timestamps=true&limitBytes=26").await, "2026-01-01T00:00:01.5Z one");
    }

    #[tokio::test]
    async fn followers_see_what_is_written_later_and_after_rotation() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F one\n").expect("log");
        let (sink, mut chunks) = mpsc::channel(16);
        let options = Options { follow: true, ..Options::default() };
        let source = Source { path: path.clone(), options, alive: Box::new(|| true) };
        let stop = CancellationToken::new();
        let task = tokio::spawn(source.send(sink, stop.clone()));
        assert_eq!(chunks.recv().await.as_deref(), Some(&b"one\n"[..]));
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(b"2026-01-01T00:00:02Z stdout F two\n").expect("write");
        assert_eq!(chunks.recv().await.as_deref(), Some(&b"two\n"[..]));
        std::fs::rename(&path, dir.path().join("0.log.old")).expect("rename");
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F three\n").expect("new");
        assert_eq!(chunks.recv().await.as_deref(), Some(&b"three\n"[..]));
        stop.cancel();
        task.await.expect("task").expect("sent");
    }

    #[test]
    fn messages_come_from_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("log");
        assert_eq!(tail_text(&path, 80, 2048), "one\ntwo\nthree\n\n");
        assert_eq!(tail_text(&path, 80, 5), "ree\n\n");
        assert_eq!(tail_text(Path::new("/none"), 80, 5), "");
    }
}
