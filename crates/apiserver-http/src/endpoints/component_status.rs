//! `componentstatuses`: whether the parts of the control plane answer. Upstream: pkg/registry/core/componentstatus, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use machinery::{Object, StatusError, StatusResult};
use serde_json::json;

use crate::body::Body;
use crate::context::{Context, Endpoint};
use crate::negotiate::Form;
use crate::{read, respond};

/// One part and how to ask it.
#[async_trait]
pub trait Component: Send + Sync {
    /// For example `scheduler` or `etcd-0`.
    fn name(&self) -> &str;
    /// What it says of its health; the error is what is wrong.
    async fn probe(&self) -> Result<String, String>;
}

/// Serves `componentstatuses`.
pub struct ComponentStatuses(pub Vec<Arc<dyn Component>>);

async fn status(component: &dyn Component) -> Object {
    let condition = match component.probe().await {
        Ok(message) => json!({ "type": "Healthy", "status": "True", "message": message }),
        Err(error) => json!({ "type": "Healthy", "status": "False", "message": error }),
    };
    let mut object = Object::default();
    object.set_type("v1", "ComponentStatus");
    object.set(&["metadata", "name"], component.name());
    object.set(&["conditions"], vec![condition]);
    object
}

#[async_trait]
impl Endpoint for ComponentStatuses {
    async fn serve(&self, context: &Context, _request: Request<Body>) -> StatusResult<Response<Body>> {
        let agreed = context.negotiate()?;
        Ok(match context.info.verb.as_str() {
            "get" => {
                let name = &context.info.name;
                let component = self
                    .0
                    .iter()
                    .find(|c| c.name() == name)
                    .ok_or_else(|| StatusError::not_found(&context.kind.group_resource(), name))?;
                read::one(context, agreed, StatusCode::OK, status(&**component).await)
            }
            "list" => {
                let all = futures::future::join_all(self.0.iter().map(|c| status(&**c))).await;
                let value = match agreed.form {
                    Form::Table => read::table(context, all.into_iter(), json!({}), true),
                    _ => json!({
                        "kind": "ComponentStatusList",
                        "apiVersion": "v1",
                        "metadata": {},
                        "items": all,
                    }),
                };
                respond::json(StatusCode::OK, agreed.media, &value)
            }
            verb => {
                return Err(StatusError::method_not_supported(&context.kind.group_resource(), verb));
            }
        })
    }
}
