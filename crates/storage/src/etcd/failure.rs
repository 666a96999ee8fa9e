//! From a verdict to the error of the trait, which also tells what the call was about.

use super::verdict::Verdict;
use crate::{Error, LeaseId, Revision};

/// etcd's `--max-request-bytes`, where nobody has changed it.
pub(super) const REQUEST_LIMIT: usize = 3 << 19;

/// What a call was about.
#[derive(Clone, Copy, Default)]
pub(super) struct About {
    pub(super) revision: Revision,
    /// The store's revision, as far as it is known.
    pub(super) current: Revision,
    /// The oldest revision that is kept, as far as it is known.
    pub(super) compacted: Revision,
    pub(super) lease: Option<LeaseId>,
    pub(super) value: usize,
}

impl About {
    pub(super) fn error(self, verdict: Verdict) -> Error {
        match verdict {
            Verdict::Compacted => Error::Compacted {
                requested: self.revision,
                compacted: self.compacted.max(Revision(self.revision.0.saturating_add(1))),
            },
            Verdict::Future => Error::FutureRevision { requested: self.revision, current: self.current },
            Verdict::LeaseNotFound => Error::LeaseNotFound(self.lease.unwrap_or(LeaseId(0))),
            Verdict::TooLarge => Error::ValueTooLarge { len: self.value, limit: REQUEST_LIMIT },
            Verdict::TokenExpired => Error::Refused("etcd: invalid auth token".into()),
            Verdict::Refused(why) => Error::Refused(why),
            Verdict::NothingHappened(why) => Error::Unreachable(why),
            Verdict::Unknown(why) => Error::Indeterminate(why),
        }
    }
}

/// The error of a call that was about nothing in particular.
pub(super) fn plain(verdict: Verdict) -> Error {
    About::default().error(verdict)
}
