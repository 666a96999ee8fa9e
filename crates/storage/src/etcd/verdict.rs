//! What an error of a call to etcd means: an answer, a reason to ask another member, or not knowing.

use std::sync::Arc;

use tonic::{Code, Status};

use super::dial::{explain, never_sent};

/// What is known after a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The revision was compacted.
    Compacted,
    /// The revision is in the future, for the member that was asked.
    Future,
    /// There is no such lease.
    LeaseNotFound,
    /// The request is larger than etcd takes.
    TooLarge,
    /// Our token is not valid any more.
    TokenExpired,
    /// It will be so with every member and next time.
    Refused(Arc<str>),
    /// Nothing happened; another member, or the same one later, may do it.
    NothingHappened(Arc<str>),
    /// It may have happened.
    Unknown(Arc<str>),
}

/// Judges a failed call.
pub(super) fn judge(status: &Status) -> Verdict {
    let message = status.message();
    // With auth on, a request without a token is refused in these words.
    if status.code() == Code::Unauthenticated || message.contains("user name is empty") {
        return Verdict::TokenExpired;
    }
    match (status.code(), message) {
        (Code::OutOfRange, m) if m.contains("has been compacted") => Verdict::Compacted,
        (Code::OutOfRange, m) if m.contains("future revision") => Verdict::Future,
        (Code::NotFound, m) if m.contains("lease not found") => Verdict::LeaseNotFound,
        (Code::InvalidArgument, m) if m.contains("request is too large") => Verdict::TooLarge,
        (Code::ResourceExhausted, m) if m.contains("message larger than max") => Verdict::TooLarge,
        (Code::ResourceExhausted, m) if m.contains("database space exceeded") => {
            Verdict::Refused(format!("{m}; compact and defragment etcd, then: etcdctl alarm disarm").into())
        }
        // Said before anything is proposed.
        (Code::ResourceExhausted, "etcdserver: too many requests")
        | (Code::Unavailable, "etcdserver: no leader" | "etcdserver: not leader") => {
            Verdict::NothingHappened(message.into())
        }
        (
            Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented,
            m,
        ) => Verdict::Refused(m.into()),
        (Code::NotFound | Code::AlreadyExists | Code::OutOfRange | Code::DataLoss, m) => {
            Verdict::Refused(m.into())
        }
        _ => {
            let why = explain(status).unwrap_or_else(|| match message {
                "" => status.code().description().to_owned(),
                _ => message.to_owned(),
            });
            if never_sent(status) {
                Verdict::NothingHappened(why.into())
            } else {
                Verdict::Unknown(why.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_words_are_understood() {
        let check = |code, message: &str, expect: fn(&Verdict) -> bool| {
            let verdict = judge(&Status::new(code, message));
            assert!(expect(&verdict), "{message}: {verdict:?}");
        };
        check(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", |v| {
            *v == Verdict::Compacted
        });
        check(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", |v| {
            *v == Verdict::Future
        });
        check(Code::NotFound, "etcdserver: requested lease not found", |v| *v == Verdict::LeaseNotFound);
        check(Code::InvalidArgument, "etcdserver: request is too large", |v| *v == Verdict::TooLarge);
        check(Code::Unauthenticated, "etcdserver: invalid auth token", |v| *v == Verdict::TokenExpired);
        check(Code::InvalidArgument, "etcdserver: user name is empty", |v| *v == Verdict::TokenExpired);
        check(Code::PermissionDenied, "etcdserver: permission denied", |v| matches!(v, Verdict::Refused(_)));
        check(Code::Unavailable, "etcdserver: no leader", |v| matches!(v, Verdict::NothingHappened(_)));
        check(Code::Unavailable, "etcdserver: request timed out", |v| matches!(v, Verdict::Unknown(_)));
        check(Code::Unavailable, "etcdserver: leader changed", |v| matches!(v, Verdict::Unknown(_)));
        check(Code::Unknown, "transport error", |v| matches!(v, Verdict::Unknown(_)));
        check(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
            |v| matches!(v, Verdict::Refused(m) if m.contains("disarm")),
        );
    }
}
