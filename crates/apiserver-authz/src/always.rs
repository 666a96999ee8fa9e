//! Modes that need no policy: AlwaysAllow, AlwaysDeny, and the groups that may do anything.
use async_trait::async_trait;
use machinery::request::{Attributes, UserInfo};

use crate::{Answer, Authorizer, NonResourceRule, ResourceRule, Rules};

fn everything() -> Rules {
    let star = || vec!["*".to_owned()];
    Rules {
        resource_rules: vec![ResourceRule {
            verbs: star(),
            api_groups: star(),
            resources: star(),
            resource_names: Vec::new(),
        }],
        non_resource_rules: vec![NonResourceRule { verbs: star(), non_resource_urls: star() }],
        ..Rules::default()
    }
}

/// `AlwaysAllow`.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Answer {
        Answer::ALLOW
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        everything()
    }
}

/// `AlwaysDeny`: never says yes.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Answer {
        Answer::no_opinion("Everything is forbidden.")
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules::default()
    }
}

/// Members of `system:masters` may do anything, whatever the policy says.
#[derive(Debug, Clone, Copy)]
pub struct PrivilegedGroups;

/// The group that no policy restricts.
pub const SYSTEM_MASTERS: &str = "system:masters";

#[async_trait]
impl Authorizer for PrivilegedGroups {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        if attributes.user.in_group(SYSTEM_MASTERS) { Answer::ALLOW } else { Answer::NO_OPINION }
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if user.in_group(SYSTEM_MASTERS) { everything() } else { Rules::default() }
    }
}

#[cfg(test)]
mod tests {
    use machinery::request::RequestInfo;

    use super::*;
    use crate::Decision;

    #[tokio::test]
    async fn modes_that_need_no_policy() {
        let nobody = UserInfo::anonymous();
        let (jane, root) = (UserInfo::new("jane", &["masters"]), UserInfo::new("root", &[SYSTEM_MASTERS]));
        let request = RequestInfo { verb: "delete".into(), path: "/".into(), ..RequestInfo::default() };
        for (who, privileged) in [(&nobody, false), (&jane, false), (&root, true)] {
            let question = Attributes { user: who, request: &request };
            assert!(AlwaysAllow.authorize(&question).await.is_allowed());
            let denied = AlwaysDeny.authorize(&question).await;
            assert_eq!((denied.decision, denied.reason()), (Decision::NoOpinion, "Everything is forbidden."));
            assert_eq!(PrivilegedGroups.authorize(&question).await.is_allowed(), privileged, "{}", who.name);
            assert_eq!(PrivilegedGroups.rules_for(who, "n") == everything(), privileged, "{}", who.name);
        }
        assert_eq!(AlwaysDeny.rules_for(&root, "n"), Rules::default());
    }
}
