//! From questions on the wire to answers on the wire.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::forward::Forwarder;
use crate::index::Index;
use crate::zone::{Answer, Zone};

/// Answers questions.
pub struct Handler {
    /// What is known of the cluster.
    pub index: Arc<RwLock<Index>>,
    /// How names of the cluster are answered.
    pub zone: Zone,
    /// Whom to ask for other names.
    pub forwarder: Forwarder,
    /// Moves on with every answer, so that clients do not all take the first address.
    pub turn: AtomicUsize,
}

/// Largest answer by UDP that gets through everywhere.
const UDP_PAYLOAD: u16 = 1232;
/// Longest chain of aliases that is followed.
const MAX_ALIASES: usize = 8;

/// An answer, ready to be a message.
#[derive(Debug, Default)]
pub struct Reply {
    /// How it went.
    pub code: ResponseCode,
    /// Whether it is about the cluster.
    pub authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Who says that there is nothing.
    pub authorities: Vec<Record>,
    /// What is asked for next.
    pub additionals: Vec<Record>,
}

impl Handler {
    /// Answers one question. `name` has to be in lower case; `spelled` is how it was asked.
    pub async fn resolve(&self, name: &Name, spelled: &Name, kind: RecordType) -> Reply {
        let mut reply = Reply::default();
        let (mut name, mut spelled) = (name.clone(), spelled.clone());
        for _ in 0..MAX_ALIASES {
            let answer = {
                let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
                self.zone.answer(&index, &name, &spelled, kind)
            };
            let followed = !reply.answers.is_empty();
            reply.authoritative |= !followed && answer != Answer::Foreign;
            match answer {
                Answer::Found { mut answers, additionals } => {
                    let by = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                    answers.rotate_left(by);
                    reply.answers.append(&mut answers);
                    reply.additionals = additionals;
                    return reply;
                }
                Answer::NoData(soa) => {
                    reply.authorities.push(soa);
                    return reply;
                }
                Answer::NoName(soa) => {
                    reply.code = ResponseCode::NXDomain;
                    reply.authorities.push(soa);
                    return reply;
                }
                Answer::Foreign => {
                    let found = self.forwarder.lookup(&spelled, kind).await;
                    // Half of the answer is ours, and true whatever others say.
                    if !followed || matches!(found.code, ResponseCode::NXDomain) {
                        reply.code = found.code;
                    }
                    reply.answers.extend(found.answers);
                    reply.authorities.extend(found.authorities);
                    return reply;
                }
                Answer::Alias(record) => {
                    let target = match &record.data {
                        RData::CNAME(target) => target.0.clone(),
                        _ => return reply,
                    };
                    reply.answers.push(record);
                    if kind == RecordType::CNAME {
                        return reply;
                    }
                    name = target.to_lowercase();
                    spelled = target;
                }
            }
        }
        // Aliases in a circle.
        reply.code = ResponseCode::ServFail;
        reply
    }

    async fn reply(&self, request: &Request) -> Reply {
        let failed = |code| Reply { code, ..Reply::default() };
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return failed(ResponseCode::BADVERS);
        }
        if request.metadata.op_code != OpCode::Query {
            return failed(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return failed(ResponseCode::FormErr) };
        let kind = info.query.query_type();
        if info.query.query_class() != DNSClass::IN
            || matches!(kind, RecordType::AXFR | RecordType::IXFR | RecordType::OPT)
        {
            return failed(ResponseCode::Refused);
        }
        self.resolve(info.query.name(), info.query.original().name(), kind).await
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let mut edns = Edns::new();
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(asked) = &request.edns {
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD)).set_version(0);
            edns.set_rcode_high(reply.code.high());
            builder.edns(&edns);
        }
        let response = builder.build(metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot send an answer");
                let mut metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
