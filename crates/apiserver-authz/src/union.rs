//! Several authorizers in turn: the first that decides wins.
use async_trait::async_trait;
use machinery::request::{Attributes, UserInfo};

use crate::{Answer, Authorizer, Decision, Rules};

/// Asks each in order until one allows or denies.
pub struct Union(pub Vec<Box<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        let mut reasons: Vec<String> = Vec::new();
        let mut errors: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            let answer = authorizer.authorize(attributes).await;
            if answer.decision != Decision::NoOpinion {
                return answer;
            }
            if !answer.reason().is_empty() {
                reasons.push(answer.reason().to_owned());
            }
            if !answer.error().is_empty() {
                errors.push(answer.error().to_owned());
            }
        }
        Answer {
            decision: Decision::NoOpinion,
            reason: (!reasons.is_empty()).then(|| reasons.join("\n").into()),
            error: (!errors.is_empty()).then(|| aggregate(&errors).into()),
        }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        let mut errors = Vec::new();
        for authorizer in &self.0 {
            let rules = authorizer.rules_for(user, namespace);
            all.resource_rules.extend(rules.resource_rules);
            all.non_resource_rules.extend(rules.non_resource_rules);
            all.incomplete |= rules.incomplete;
            if !rules.evaluation_error.is_empty() {
                errors.push(rules.evaluation_error);
            }
        }
        all.evaluation_error = aggregate(&errors);
        all
    }
}

/// Several errors as Go's aggregate writes them.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        [] => String::new(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use machinery::request::RequestInfo;

    use super::*;
    use crate::always::{AlwaysAllow, AlwaysDeny};

    struct Says(Answer);

    #[async_trait]
    impl Authorizer for Says {
        async fn authorize(&self, _attributes: &Attributes<'_>) -> Answer {
            self.0.clone()
        }

        fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
            Rules::default()
        }
    }

    #[tokio::test]
    async fn the_first_who_decides_wins() {
        let ask = async |all: Vec<Box<dyn Authorizer>>| {
            let (user, request) = (UserInfo::new("jane", &[]), RequestInfo::default());
            Union(all).authorize(&Attributes { user: &user, request: &request }).await
        };
        let says = |answer: Answer| Box::new(Says(answer)) as Box<dyn Authorizer>;
        let down = || Answer::failed(Decision::NoOpinion, "down");
        let answer = ask(vec![says(down()), Box::new(AlwaysAllow)]).await;
        assert_eq!(answer, Answer::ALLOW);
        let answer = ask(vec![says(Answer::failed(Decision::Deny, "down")), Box::new(AlwaysAllow)]).await;
        assert_eq!((answer.decision, answer.error()), (Decision::Deny, "down"));
        let answer = ask(vec![says(Answer::no_opinion("a")), says(down()), Box::new(AlwaysDeny)]).await;
        assert_eq!((answer.decision, answer.reason()), (Decision::NoOpinion, "a\nEverything is forbidden."));
        assert_eq!(answer.error(), "down");
        assert_eq!(ask(vec![says(down()), says(down())]).await.error(), "[down, down]");
        assert_eq!(ask(vec![]).await, Answer::NO_OPINION);
    }
}
