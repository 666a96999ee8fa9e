//! Asks another server what one may: SubjectAccessReview over HTTP. Upstream:
//! apiserver/plugin/pkg/authorizer/webhook, 1.36.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::Lru;
use machinery::field_selector::{self, FieldSelector};
use machinery::label_selector::{self, LabelSelector};
use machinery::request::{Attributes, RequestInfo, UserInfo};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{Answer, Authorizer, Decision, Rules};

/// How often a question is asked before it counts as failed, and the first pause; each is half as long again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Answers that are kept.
const KEPT: usize = 8192;
/// A question in which the asker chose more bytes than this is not kept: somebody may want the memory to fill.
const LARGEST_KEPT: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// What happened.
    pub why: String,
    /// Whether the same question may be answered in a moment.
    pub again: bool,
}

/// The server that is asked. Implementations bound an exchange in size and time, and check the server's certificate.
#[async_trait]
pub trait ReviewServer: Send + Sync {
    /// The body of the answer to a SubjectAccessReview.
    async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoAnswer>;
}

/// A server that knows what one may (`--authorization-webhook-config-file`).
pub struct Webhook {
    /// The server.
    server: Arc<dyn ReviewServer>,
    options: Options,
    kept: Mutex<Lru<String, (Instant, Status)>>,
}

/// How a server is asked, and what its answers are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `v1` or `v1beta1` of SubjectAccessReview.
    pub version: Version,
    /// How long a yes is kept; zero: not at all.
    pub authorized_ttl: Duration,
    /// How long all other answers are kept; zero: not at all.
    pub unauthorized_ttl: Duration,
    /// What holds where there is no answer: no opinion, or no.
    pub on_error: Decision,
}

/// A version of SubjectAccessReview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1beta1,
}

impl Version {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: Option<Arc<str>>,
}

impl Status {
    fn answer(&self) -> Answer {
        let decision = match (self.allowed, self.denied) {
            (_, true) => Decision::Deny,
            (true, false) => Decision::Allow,
            (false, false) => Decision::NoOpinion,
        };
        let both = "webhook subject access review returned both allow and deny response";
        let error = (self.allowed && self.denied).then(|| both.into());
        Answer { decision, reason: self.reason.clone(), error }
    }
}

impl Webhook {
    /// Asks this server.
    pub fn new(server: Arc<dyn ReviewServer>, options: Options) -> Self {
        Self { server, options, kept: Mutex::new(Lru::new(KEPT)) }
    }

    fn remembered(&self, question: &str) -> Option<Status> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, status) = kept.get_mut(question)?;
        if Instant::now() < *until {
            return Some(status.clone());
        }
        kept.remove(question);
        None
    }

    fn remember(&self, question: String, status: &Status) {
        let ttl = if status.allowed { self.options.authorized_ttl } else { self.options.unauthorized_ttl };
        if ttl.is_zero() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(question, (Instant::now() + ttl, status.clone()));
    }

    async fn ask(&self, question: &[u8]) -> Result<Vec<u8>, String> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let failed = match self.server.review(question).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if !failed.again || tries == TRIES {
                return Err(failed.why);
            }
            tracing::debug!(error = failed.why, tries, "the authorization webhook failed, asking again");
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
            tries += 1;
        }
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        let spec = spec(attributes, self.options.version);
        let key = spec.to_string();
        if let Some(status) = self.remembered(&key) {
            return status.answer();
        }
        let question = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.options.version.name()),
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        });
        let status = match self.ask(question.to_string().as_bytes()).await.and_then(|body| read(&body)) {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(error, "the authorization webhook was asked in vain");
                return Answer::failed(self.options.on_error, error);
            }
        };
        if chosen(attributes.request) < LARGEST_KEPT {
            self.remember(key, &status);
        }
        status.answer()
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules {
            incomplete: true,
            evaluation_error: "webhook authorizer does not support user rule resolution".into(),
            ..Rules::default()
        }
    }
}

/// How many bytes of a question the asker chose.
fn chosen(r: &RequestInfo) -> usize {
    let selectors = [&r.field_selector, &r.label_selector];
    let all =
        [&r.namespace, &r.verb, &r.api_group, &r.api_version, &r.resource, &r.subresource, &r.name, &r.path];
    all.into_iter().chain(selectors).map(String::len).sum()
}

/// The `spec` of a question.
fn spec(attributes: &Attributes<'_>, version: Version) -> Value {
    let (user, request) = (attributes.user, attributes.request);
    let mut spec = Map::new();
    let put = |to: &mut Map<String, Value>, key: &str, text: &str| {
        if !text.is_empty() {
            to.insert(key.into(), text.into());
        }
    };
    let mut about = Map::new();
    put(&mut about, "verb", &request.verb);
    if request.is_resource {
        put(&mut about, "namespace", &request.namespace);
        put(&mut about, "group", &request.api_group);
        put(&mut about, "version", &request.api_version);
        put(&mut about, "resource", &request.resource);
        put(&mut about, "subresource", &request.subresource);
        put(&mut about, "name", &request.name);
        let selectors = [
            ("fieldSelector", field_requirements(&request.field_selector)),
            ("labelSelector", label_requirements(&request.label_selector)),
        ];
        for (key, requirements) in selectors {
            if !requirements.is_empty() {
                about.insert(key.into(), json!({ "requirements": requirements }));
            }
        }
        spec.insert("resourceAttributes".into(), about.into());
    } else {
        put(&mut about, "path", &request.path);
        spec.insert("nonResourceAttributes".into(), about.into());
    }
    put(&mut spec, "user", &user.name);
    if !user.groups.is_empty() {
        // The older version has it in the singular.
        let key = if version == Version::V1 { "groups" } else { "group" };
        spec.insert(key.into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    put(&mut spec, "uid", &user.uid);
    spec.into()
}

/// A selector's terms. One that cannot be read is left out: a question without it asks for more.
fn field_requirements(text: &str) -> Vec<Value> {
    let selector = FieldSelector::parse(text).unwrap_or_default();
    let requirement = |r: &field_selector::Requirement| {
        let operator = match r.operator {
            field_selector::Operator::Equals => "In",
            field_selector::Operator::NotEquals => "NotIn",
        };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    };
    selector.requirements().iter().map(requirement).collect()
}

/// The same of labels; comparisons of numbers have no form there.
fn label_requirements(text: &str) -> Vec<Value> {
    use label_selector::Operator;
    let Ok(selector) = LabelSelector::parse(text) else { return Vec::new() };
    let requirement = |r: &label_selector::Requirement| {
        let operator = match r.operator() {
            Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => return Some(json!({"key": r.key(), "operator": "Exists"})),
            Operator::DoesNotExist => return Some(json!({"key": r.key(), "operator": "DoesNotExist"})),
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(json!({"key": r.key(), "operator": operator, "values": r.values().collect::<Vec<_>>()}))
    };
    selector.requirements().iter().filter_map(requirement).collect()
}

fn read(body: &[u8]) -> Result<Status, String> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|e| format!("the webhook did not answer with JSON: {e}"))?;
    let status = &answer["status"];
    // What an answer of another kind would mean is anybody's guess.
    if answer["kind"].as_str().is_some_and(|kind| kind != "SubjectAccessReview") {
        return Err(format!("the webhook answered with a {}", answer["kind"]));
    }
    let flag = |key: &str| match &status[key] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        other => Err(format!("the webhook answered with status.{key} {other}")),
    };
    let reason = status["reason"].as_str().filter(|r| !r.is_empty());
    Ok(Status { allowed: flag("allowed")?, denied: flag("denied")?, reason: reason.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    type Said = Result<Value, NoAnswer>;

    /// Gives answers one by one, and keeps the questions.
    struct Script(Mutex<(VecDeque<Said>, Vec<Value>)>);

    #[async_trait]
    impl ReviewServer for Script {
        async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoAnswer> {
            let mut script = self.0.lock().unwrap();
            script.1.push(serde_json::from_slice(question).unwrap());
            let said = script.0.pop_front().expect("a question too many");
            said.map(|v| v.to_string().into_bytes())
        }
    }

    struct Asked {
        script: Arc<Script>,
        webhook: Webhook,
    }

    fn options() -> Options {
        Options {
            version: Version::V1,
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            on_error: Decision::NoOpinion,
        }
    }

    impl Asked {
        fn new(options: Options, said: Vec<Said>) -> Self {
            let script = Arc::new(Script(Mutex::new((said.into(), Vec::new()))));
            Self { webhook: Webhook::new(script.clone(), options), script }
        }

        async fn ask(&self, request: &RequestInfo) -> Answer {
            let user = UserInfo {
                uid: "7".into(),
                extra: [("scopes".to_owned(), vec!["a".to_owned()])].into(),
                ..UserInfo::new("jane", &["devs", "system:authenticated"])
            };
            self.webhook.authorize(&Attributes { user: &user, request }).await
        }

        fn questions(&self) -> Vec<Value> {
            self.script.0.lock().unwrap().1.clone()
        }
    }

    fn pods() -> RequestInfo {
        RequestInfo {
            verb: "list".into(),
            is_resource: true,
            api_version: "v1".into(),
            resource: "pods".into(),
            namespace: "n".into(),
            ..RequestInfo::default()
        }
    }

    fn yes() -> Said {
        Ok(json!({"kind": "SubjectAccessReview", "status": {"allowed": true, "reason": "since"}}))
    }

    fn says(status: Value) -> Said {
        Ok(json!({ "status": status }))
    }

    fn fails(again: bool) -> Said {
        Err(NoAnswer { why: "down".into(), again })
    }

    #[tokio::test]
    async fn questions_are_upstreams() {
        let asked = Asked::new(options(), vec![yes()]);
        let request = RequestInfo {
            field_selector: "spec.nodeName=a,metadata.name!=b".into(),
            label_selector: "app in (x,y),!old,new,n>1".into(),
            ..pods()
        };
        assert!(asked.ask(&request).await.is_allowed());
        let want = json!({
            "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
            "spec": {
                "resourceAttributes": {
                    "namespace": "n", "verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [
                        {"key": "metadata.name", "operator": "NotIn", "values": ["b"]},
                        {"key": "spec.nodeName", "operator": "In", "values": ["a"]}]},
                    "labelSelector": {"requirements": [
                        {"key": "app", "operator": "In", "values": ["x", "y"]},
                        {"key": "new", "operator": "Exists"},
                        {"key": "old", "operator": "DoesNotExist"}]},
                },
                "user": "jane", "groups": ["devs", "system:authenticated"], "extra": {"scopes": ["a"]}, "uid": "7",
            },
            "status": {"allowed": false},
        });
        assert_eq!(asked.questions(), [want]);

        let beta = Asked::new(Options { version: Version::V1beta1, ..options() }, vec![yes()]);
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        assert!(beta.ask(&path).await.is_allowed());
        let question = &beta.questions()[0];
        assert_eq!(question["apiVersion"], "authorization.k8s.io/v1beta1");
        assert_eq!(question["spec"]["group"], json!(["devs", "system:authenticated"]));
        assert_eq!(question["spec"]["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
        assert!(question["spec"].get("resourceAttributes").is_none());
    }

    #[tokio::test]
    async fn answers_become_decisions() {
        for (status, want, reason, failed) in [
            (json!({"allowed": true}), Decision::Allow, "", false),
            (json!({"allowed": false, "reason": "no"}), Decision::NoOpinion, "no", false),
            (json!({"allowed": false, "denied": true, "reason": "never"}), Decision::Deny, "never", false),
            (json!({"allowed": true, "denied": true}), Decision::Deny, "", true),
            (json!({}), Decision::NoOpinion, "", false),
            (json!({"allowed": "true"}), Decision::NoOpinion, "", true),
            (json!(null), Decision::NoOpinion, "", false),
        ] {
            let asked = Asked::new(options(), vec![says(status.clone())]);
            let got = asked.ask(&pods()).await;
            let got = (got.decision, got.reason(), !got.error().is_empty());
            assert_eq!(got, (want, reason, failed), "{status}");
        }
        let asked = Asked::new(options(), vec![Ok(json!({"kind": "Status", "status": {"allowed": true}}))]);
        assert!(!asked.ask(&pods()).await.is_allowed(), "an answer of another kind was taken for a yes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_yes_is_kept_longer_than_a_no_and_a_failure_not_at_all() {
        let asked = Asked::new(options(), vec![yes(), yes()]);
        for _ in 0..3 {
            assert!(asked.ask(&pods()).await.is_allowed());
        }
        assert_eq!(asked.questions().len(), 1);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(asked.ask(&pods()).await.is_allowed());
        assert_eq!(asked.questions().len(), 2);

        let no = || says(json!({"allowed": false}));
        let asked = Asked::new(options(), vec![no(), no()]);
        asked.ask(&pods()).await;
        tokio::time::advance(Duration::from_secs(29)).await;
        asked.ask(&pods()).await;
        assert_eq!(asked.questions().len(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        asked.ask(&pods()).await;
        assert_eq!(asked.questions().len(), 2);

        let asked = Asked::new(options(), vec![fails(false), fails(false)]);
        asked.ask(&pods()).await;
        asked.ask(&pods()).await;
        assert_eq!(asked.questions().len(), 2);

        let none = Options { authorized_ttl: Duration::ZERO, ..options() };
        let asked = Asked::new(none, vec![yes(), yes()]);
        asked.ask(&pods()).await;
        asked.ask(&pods()).await;
        assert_eq!(asked.questions().len(), 2);

        // Somebody who asks for a name of ten thousand bytes fills no memory.
        let asked = Asked::new(options(), vec![yes(), yes()]);
        let long = RequestInfo { name: "x".repeat(LARGEST_KEPT), ..pods() };
        asked.ask(&long).await;
        asked.ask(&long).await;
        assert_eq!(asked.questions().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_by_who_asks_and_for_what() {
        let asked = Asked::new(options(), vec![yes(), says(json!({})), says(json!({}))]);
        assert!(asked.ask(&pods()).await.is_allowed());
        assert!(!asked.ask(&RequestInfo { namespace: "m".into(), ..pods() }).await.is_allowed());
        let user = UserInfo::new("joe", &[]);
        let joe = asked.webhook.authorize(&Attributes { user: &user, request: &pods() }).await;
        assert!(!joe.is_allowed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_again() {
        let began = Instant::now();
        let asked = Asked::new(options(), vec![fails(true), fails(true), yes()]);
        assert!(asked.ask(&pods()).await.is_allowed());
        assert_eq!(began.elapsed().as_millis(), 1250);
        let asked = Asked::new(options(), (0..5).map(|_| fails(true)).collect());
        let answer = asked.ask(&pods()).await;
        assert_eq!((answer.decision, answer.error()), (Decision::NoOpinion, "down"));
        assert_eq!(asked.questions().len(), 5);
        let strict = Options { on_error: Decision::Deny, ..options() };
        let answer = Asked::new(strict, vec![fails(false)]).ask(&pods()).await;
        assert_eq!((answer.decision, answer.error()), (Decision::Deny, "down"));
    }
}
