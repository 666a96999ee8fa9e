use crate::NoReview;
use crate::testing::Ask;

use super::*;

/// Allows images whose name says so; tells how often it was asked.
#[derive(Default)]
struct Server {
    asked: Mutex<Vec<Value>>,
    fails: Mutex<Vec<NoReview>>,
}

#[async_trait]
impl ImageReviewer for Server {
    async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoReview> {
        let mut review: Value = serde_json::from_slice(question).unwrap();
        self.asked.lock().unwrap().push(review["spec"].clone());
        if let Some(failed) = self.fails.lock().unwrap().pop() {
            return Err(failed);
        }
        let text = review["spec"].to_string();
        review["status"] = if text.contains("silent") {
            json!({"allowed": false})
        } else if text.contains("bad") {
            json!({"allowed": false, "reason": "not signed", "auditAnnotations": {"why": "unsigned"}})
        } else {
            json!({"allowed": true})
        };
        Ok(review.to_string().into_bytes())
    }
}

fn plugin(server: &Arc<Server>, config: Value) -> ImagePolicyWebhook {
    let server = server.clone();
    let find: FindReviewer = Box::new(move |_| Ok(server.clone() as Arc<dyn ImageReviewer>));
    ImagePolicyWebhook::from_config(&find, Some(&json!({"imagePolicy": config}))).unwrap()
}

fn pod(image: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "a", "annotations": {
            "team.image-policy.k8s.io/ticket": "7", "other": "x"}},
        "spec": {"containers": [{"image": image}], "initContainers": [{"image": "init"}],
            "ephemeralContainers": [{"image": "debug"}]}})
}

#[tokio::test]
async fn another_server_decides() {
    let server = Arc::new(Server::default());
    let plugin = plugin(&server, json!({}));
    let unsigned =
        "pods \"p\" is forbidden: image policy webhook backend denied one or more images: not signed";
    let rejected = "pods \"p\" is forbidden: one or more images rejected by webhook backend";
    for (operation, subresource, image, want) in [
        (Operation::Create, "", "good", Ok(())),
        (Operation::Update, "", "bad", Err(unsigned)),
        (Operation::Create, "", "silent", Err(rejected)),
        (Operation::Update, "status", "bad", Ok(())),
        (Operation::Update, "ephemeralcontainers", "bad", Ok(())),
        (Operation::Delete, "", "bad", Ok(())),
    ] {
        let ask = Ask { operation, subresource, ..Ask::create_pod(pod(image)) };
        assert_eq!(
            ask.run(&plugin).await.map(drop),
            want.map_err(str::to_owned),
            "{operation:?} {subresource} {image}"
        );
    }
    let asked = std::mem::take(&mut *server.asked.lock().unwrap());
    let told = json!({"team.image-policy.k8s.io/ticket": "7"});
    assert_eq!(
        asked[0],
        json!({"containers": [{"image": "good"}, {"image": "init"}], "annotations": told, "namespace": "a"})
    );
    assert_eq!(asked[3], json!({"containers": [{"image": "debug"}], "annotations": told, "namespace": "a"}));
    assert_eq!(asked.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn answers_are_kept_for_a_while() {
    let server = Arc::new(Server::default());
    let plugin = plugin(&server, json!({"allowTTL": 10, "denyTTL": -1}));
    let ask = async |image: &str| {
        let _ = Ask::create_pod(pod(image)).run(&plugin).await;
        server.asked.lock().unwrap().len()
    };
    assert_eq!((ask("good").await, ask("good").await), (1, 1));
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(ask("good").await, 2);
    assert_eq!((ask("bad").await, ask("bad").await), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_the_configuration_decides() {
    let failed = |again| NoReview { why: "Post \"x\": the server answered 500".into(), again };
    for (again, fails, default_allow, want, asked) in [
        (true, 4, false, Ok(None), 5),
        (true, 5, false, Err("pods \"p\" is forbidden: Post \"x\": the server answered 500"), 5),
        (false, 1, false, Err("pods \"p\" is forbidden: Post \"x\": the server answered 500"), 1),
        (false, 1, true, Ok(Some("true")), 1),
    ] {
        let server = Arc::new(Server { fails: Mutex::new(vec![failed(again); fails]), ..Server::default() });
        let got =
            Ask::create_pod(pod("good")).run(&plugin(&server, json!({"defaultAllow": default_allow}))).await;
        let got = got.map(|pod| pod.annotation(FAILED_OPEN).map(str::to_owned));
        assert_eq!(got, want.map(|o: Option<&str>| o.map(str::to_owned)).map_err(str::to_owned));
        assert_eq!(server.asked.lock().unwrap().len(), asked);
    }
}

#[test]
fn an_answer_has_to_be_a_review() {
    for (body, want) in [
        ("", "the answer is not JSON"),
        ("{}", "the answer is no ImageReview"),
        (
            r#"{"kind":"ImageReview","apiVersion":"imagepolicy.k8s.io/v1alpha1","status":{"allowed":"yes"}}"#,
            "status",
        ),
    ] {
        assert!(read(body.as_bytes()).unwrap_err().contains(want), "{body}");
    }
}
