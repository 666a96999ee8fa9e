//! TokenReview and SelfSubjectReview as questions and answers. They are never stored: the server calls these on create.
use machinery::request::UserInfo;
use machinery::{Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};

use crate::{AuthnError, TokenUser};

/// The token and audiences a TokenReview asks about.
pub fn token_review_question(review: &Object) -> StatusResult<(&str, Vec<String>)> {
    let token = review.str_at(&["spec", "token"]);
    if token.is_empty() {
        return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review.list_at(&["spec", "audiences"]).iter();
    Ok((token, audiences.filter_map(Value::as_str).map(str::to_owned).collect()))
}

/// Writes what became of the token into `status`. A token nobody knows reads as upstream's `invalid bearer token`.
pub fn set_token_review_status(review: &mut Object, answer: Result<Option<TokenUser>, AuthnError>) {
    let status = match answer {
        Ok(Some(found)) => {
            let mut status = json!({"authenticated": true, "user": user_value(&found.user)});
            if let (Some(map), false) = (status.as_object_mut(), found.audiences.is_empty()) {
                map.insert("audiences".into(), found.audiences.into());
            }
            status
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(e) => json!({"user": {}, "error": e.0}),
    };
    review.set(&["status"], status);
}

/// Writes who asks into `status` of a SelfSubjectReview.
pub fn set_self_review_status(review: &mut Object, user: &UserInfo) {
    review.set(&["status"], json!({"userInfo": user_value(user)}));
}

/// A user as `authentication.k8s.io/v1 UserInfo`.
pub fn user_value(user: &UserInfo) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value, empty: bool| {
        if !empty {
            map.insert(key.to_owned(), value);
        }
    };
    put("username", user.name.as_str().into(), user.name.is_empty());
    put("uid", user.uid.as_str().into(), user.uid.is_empty());
    put("groups", user.groups.clone().into(), user.groups.is_empty());
    put("extra", json!(user.extra), user.extra.is_empty());
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn asks_and_answers() {
        let mut review = Object::from_value(json!({"spec": {"token": "t", "audiences": ["a"]}})).unwrap();
        assert_eq!(token_review_question(&review).unwrap(), ("t", vec!["a".to_owned()]));
        let user = Arc::new(UserInfo::new("jane", &["devs"]));
        set_token_review_status(
            &mut review,
            Ok(Some(TokenUser { user: user.clone(), audiences: vec!["a".into()] })),
        );
        let want = json!({"authenticated": true, "user": {"username": "jane", "groups": ["devs"]}, "audiences": ["a"]});
        assert_eq!(review.at(&["status"]), Some(&want));
        set_token_review_status(&mut review, Ok(None));
        assert_eq!(review.at(&["status"]), Some(&json!({"user": {}, "error": "invalid bearer token"})));
        set_self_review_status(&mut review, &user);
        assert_eq!(
            review.at(&["status"]),
            Some(&json!({"userInfo": {"username": "jane", "groups": ["devs"]}}))
        );
        assert!(token_review_question(&Object::default()).is_err());
    }
}
