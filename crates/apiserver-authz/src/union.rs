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
        for authorizer in &self.0 {
            let answer = authorizer.authorize(attributes).await;
            if answer.decision != Decision::NoOpinion {
                return answer;
            }
            if !answer.reason().is_empty() {
                reasons.push(answer.reason().to_owned());
            }
        }
        if reasons.is_empty() { Answer::NO_OPINION } else { Answer::no_opinion(reasons.join(", ")) }
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
        all.evaluation_error = match errors.as_slice() {
            [one] => one.clone(),
            [] => String::new(),
            many => format!("[{}]", many.join(", ")),
        };
        all
    }
}
