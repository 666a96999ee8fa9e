//! How a refusal reads.
use machinery::StatusError;
use machinery::gvk::GroupResource;
use machinery::request::Attributes;

/// What the user may not do, in upstream's words.
pub fn forbidden_message(attributes: &Attributes<'_>) -> String {
    let (user, request) = (&attributes.user.name, attributes.request);
    if !request.is_resource {
        return format!("User {user:?} cannot {} path {:?}", request.verb, request.path);
    }
    let resource = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", request.namespace)
    };
    format!(
        "User {user:?} cannot {} resource {resource:?} in API group {:?} {scope}",
        request.verb, request.api_group
    )
}

/// The 403 that a refused request gets.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> StatusError {
    let mut message = forbidden_message(attributes);
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let request = attributes.request;
    let gr = GroupResource::new(&request.api_group, &request.resource);
    StatusError::forbidden(&gr, &request.name, &message)
}

#[cfg(test)]
mod tests {
    use machinery::request::{RequestInfo, UserInfo};

    use super::*;

    #[test]
    fn reads_as_upstream() {
        let user = UserInfo::new("jane", &[]);
        let pods = RequestInfo {
            verb: "list".into(),
            is_resource: true,
            resource: "pods".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        };
        let check = |request: &RequestInfo, reason: &str, want: &str| {
            assert_eq!(forbidden(&Attributes { user: &user, request }, reason).to_string(), want);
        };
        check(
            &pods,
            "",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        );
        let scale = RequestInfo {
            verb: "update".into(),
            api_group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            name: "web".into(),
            ..pods.clone()
        };
        check(
            &scale,
            "no",
            r#"deployments.apps "web" is forbidden: User "jane" cannot update resource "deployments/scale" in API group "apps" in the namespace "default": no"#,
        );
        let nodes = RequestInfo { resource: "nodes".into(), namespace: String::new(), ..pods };
        check(
            &nodes,
            "",
            r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope"#,
        );
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        check(&path, "", r#"forbidden: User "jane" cannot get path "/metrics""#);
    }
}
