//! etcd's messages and clients, generated from `proto/`.

/// Keys, values and events.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub(super) mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Requests, answers and clients.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub(super) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

pub(super) use etcdserverpb::*;
pub(super) use mvccpb::KeyValue as PbKeyValue;
