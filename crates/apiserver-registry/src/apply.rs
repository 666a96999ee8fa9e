//! Server-side apply to the objects of a store.
use api::decode::{FieldValidation, Target};
use jiff::Timestamp;
use machinery::fields::{self, Versions as _};
use machinery::{Object, StatusError, StatusResult};

use crate::delete;
use crate::ownership::{self, Ownership};
use crate::request::Write;
use crate::store::{Store, Stored};

impl Store {
    /// Applies a configuration in the version of the request (server-side apply). Second: whether the object was
    /// created.
    pub async fn apply(
        &self,
        write: &Write<'_>,
        config: Object,
        force: bool,
    ) -> StatusResult<(Stored, bool)> {
        let (version, now) = (ownership::api_version(&self.kind, write), delete::timestamp(Timestamp::now()));
        let scope = ownership::scope(&self.kind, write, &version, &now);
        let views = ownership::Views(&self.kind);
        let Some(ty) = views.typed(&version) else {
            return Err(StatusError::bad_request(format!("there is no version {version}")));
        };
        fields::fits(ty, &config)?;
        let config = api::decode::normalize_applied(config, &Target::of(write.kind))?;
        let over = |live: &Object| -> StatusResult<Object> {
            let mut applied = fields::apply(&views, &scope, live, &config, force)?;
            if applied.name().is_empty() {
                let name = write.name;
                return Err(StatusError::bad_request(format!(
                    "the name of the object ({name} based on URL) was undeterminable: name must be provided"
                )));
            }
            if applied.name() != write.name {
                return Err(StatusError::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    applied.name(),
                    write.name
                )));
            }
            // A revision that the configuration does not name is not one that the client asked for.
            if config.resource_version().is_empty() {
                applied.remove(&["metadata", "resourceVersion"]);
            }
            let checked = api::decode::check_patched(applied, write.kind.schema, FieldValidation::Ignore)?;
            let mut applied = checked.object;
            applied.set_type(&version, &self.kind.kind);
            Ok(views.convert(&applied, &self.kind.api_version()).into_owned())
        };
        let absent = || write.subresource.is_empty().then(|| over(&Object::default()));
        self.replace(write, &over, absent, Ownership::Settled).await
    }
}
