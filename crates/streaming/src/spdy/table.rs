//! The streams of one connection: who may still send what. Pure state behind the connection's lock.

use std::collections::HashMap;

use tokio::{io::DuplexStream, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::connection::Role;

/// One open stream.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where received bytes go; taken while bytes are being written to it, none once nobody reads.
    pub(super) inbound: Option<DuplexStream>,
    /// The peer may still send.
    pub(super) remote_open: bool,
    /// We may still send.
    pub(super) local_open: bool,
    /// Its owner dropped it; it only waits for the peer's end.
    abandoned: bool,
    /// Waits for the peer to accept a stream of ours.
    pub(super) reply: Option<oneshot::Sender<()>>,
    /// Cancelled when the stream is reset or its connection ends.
    pub(super) gone: CancellationToken,
}

impl Entry {
    pub(super) fn new(inbound: DuplexStream, reply: Option<oneshot::Sender<()>>) -> Self {
        Self {
            inbound: Some(inbound),
            remote_open: true,
            local_open: true,
            abandoned: false,
            reply,
            gone: CancellationToken::new(),
        }
    }
}

/// What the owner's drop of a stream asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// Nothing: both sides had ended, or the peer will end its side.
    Quiet,
    /// The peer is to be told that the stream is over.
    Reset,
}

/// All streams, and the identifiers used so far.
#[derive(Debug)]
pub(super) struct Table {
    streams: HashMap<u32, Entry>,
    next_local: u32,
    last_remote: u32,
    remote_parity: u32,
    max_streams: usize,
    /// One side said that no further streams will be accepted.
    pub(super) going_away: bool,
}

/// Why a stream of the peer's was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not an identifier the peer may use now.
    BadId,
    /// Too many are open.
    TooMany,
    /// The connection is ending.
    GoingAway,
}

impl Table {
    pub(super) fn new(role: Role, max_streams: usize) -> Self {
        let (next_local, remote_parity) = match role {
            Role::Client => (1, 0),
            Role::Server => (2, 1),
        };
        Self {
            streams: HashMap::new(),
            next_local,
            last_remote: 0,
            remote_parity,
            max_streams,
            going_away: false,
        }
    }

    /// Whether a ping with this identifier was started by the peer.
    pub(super) fn is_remote_id(&self, id: u32) -> bool {
        id % 2 == self.remote_parity
    }

    pub(super) fn last_remote(&self) -> u32 {
        self.last_remote
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.streams.get_mut(&id)
    }

    /// Takes a stream the peer opened.
    pub(super) fn insert_remote(&mut self, id: u32, entry: Entry) -> Result<(), Refusal> {
        if !self.is_remote_id(id) || id <= self.last_remote {
            return Err(Refusal::BadId);
        }
        self.last_remote = id;
        if self.going_away {
            return Err(Refusal::GoingAway);
        }
        if !self.has_room() {
            return Err(Refusal::TooMany);
        }
        self.streams.insert(id, entry);
        Ok(())
    }

    /// Gives a stream of ours its identifier; none if the connection takes no more.
    pub(super) fn insert_local(&mut self, entry: Entry) -> Option<u32> {
        let id = self.next_local;
        if self.going_away || id > 0x7fff_ffff || !self.has_room() {
            return None;
        }
        self.next_local += 2;
        self.streams.insert(id, entry);
        Some(id)
    }

    /// A peer that never ends its half of finished streams pays with those first.
    fn has_room(&mut self) -> bool {
        if self.streams.len() >= self.max_streams {
            self.streams.retain(|_, entry| !entry.abandoned);
        }
        self.streams.len() < self.max_streams
    }

    /// The peer sends nothing more on a stream.
    pub(super) fn remote_finished(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.remote_open = false;
            entry.inbound = None;
            self.forget_if_over(id);
        }
    }

    /// We send nothing more on a stream.
    pub(super) fn local_finished(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.local_open = false;
            self.forget_if_over(id);
        }
    }

    fn forget_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|entry| !entry.local_open && !entry.remote_open) {
            self.streams.remove(&id);
        }
    }

    /// Ends a stream both ways at once; whether it was open.
    pub(super) fn reset(&mut self, id: u32) -> bool {
        match self.streams.remove(&id) {
            Some(entry) => {
                entry.gone.cancel();
                true
            }
            None => false,
        }
    }

    /// The owner dropped a stream.
    pub(super) fn release(&mut self, id: u32) -> Release {
        match self.streams.get_mut(&id) {
            None => Release::Quiet,
            // Our end is queued behind the data: a reset now could overtake it.
            Some(entry) if !entry.local_open => {
                entry.abandoned = true;
                entry.inbound = None;
                Release::Quiet
            }
            Some(_) => {
                self.reset(id);
                Release::Reset
            }
        }
    }

    /// Ends everything.
    pub(super) fn clear(&mut self) {
        self.going_away = true;
        for (_, entry) in self.streams.drain() {
            entry.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new(tokio::io::duplex(8).0, None)
    }

    #[test]
    fn takes_only_new_identifiers_of_the_peer() {
        let mut table = Table::new(Role::Server, 8);
        assert_eq!(table.insert_remote(1, entry()), Ok(()));
        assert_eq!(table.insert_remote(5, entry()), Ok(()));
        for id in [0, 1, 2, 3, 5, 6] {
            assert_eq!(table.insert_remote(id, entry()), Err(Refusal::BadId), "{id}");
        }
        table.going_away = true;
        assert_eq!(table.insert_remote(7, entry()), Err(Refusal::GoingAway));
    }

    #[test]
    fn a_stream_is_over_when_both_sides_have_ended() {
        let mut table = Table::new(Role::Server, 8);
        table.insert_remote(1, entry()).expect("room");
        table.local_finished(1);
        assert!(table.get_mut(1).is_some());
        table.remote_finished(1);
        assert!(table.get_mut(1).is_none());
    }

    #[test]
    fn a_dropped_stream_is_reset_unless_it_had_ended_properly() {
        let mut table = Table::new(Role::Server, 8);
        table.insert_remote(1, entry()).expect("room");
        assert_eq!(table.release(1), Release::Reset);
        table.insert_remote(3, entry()).expect("room");
        table.local_finished(3);
        assert_eq!(table.release(3), Release::Quiet);
        assert!(table.get_mut(3).is_some(), "waits for the peer's end");
    }

    #[test]
    fn streams_the_peer_left_half_open_make_room() {
        let mut table = Table::new(Role::Server, 2);
        table.insert_remote(1, entry()).expect("room");
        table.insert_remote(3, entry()).expect("room");
        assert_eq!(table.insert_remote(5, entry()), Err(Refusal::TooMany));
        table.local_finished(1);
        table.release(1);
        assert_eq!(table.insert_remote(7, entry()), Ok(()));
        assert!(table.get_mut(1).is_none());
    }
}
