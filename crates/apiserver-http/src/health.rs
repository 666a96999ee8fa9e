//! `/healthz`, `/livez`, `/readyz` and their named checks. Upstream: apiserver/pkg/server/healthz, 1.36.
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use crate::body::{Body, full};
use crate::query::Query;

/// One named check.
pub struct Check {
    /// Name, for example `etcd` or `poststarthook/rbac/bootstrap-roles`.
    pub name: &'static str,
    /// Whether a failure also means that the process should be restarted.
    pub live: bool,
    /// What is wrong now, if anything. Quick: no I/O.
    pub probe: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// All checks of a server.
#[derive(Default)]
pub struct Health(pub Vec<Check>);

impl Health {
    /// Answers the paths of health; `None` for other paths.
    pub fn answer(&self, path: &str, query: &Query<'_>) -> Option<Response<Body>> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next().filter(|e| matches!(*e, "healthz" | "livez" | "readyz"))?;
        let one = parts.next();
        let excluded: Vec<&str> = query.all("exclude").collect();
        let relevant = |c: &&Check| endpoint != "livez" || c.live;
        if let Some(name) = one {
            if name == "ping" {
                return Some(text(StatusCode::OK, "ok"));
            }
            let check = self.0.iter().filter(relevant).find(|c| c.name == name)?;
            return Some(match (check.probe)() {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("internal server error: {e}\n")),
            });
        }
        let mut failed: Vec<&str> = Vec::new();
        let mut report = String::from("[+]ping ok\n");
        for check in self.0.iter().filter(relevant) {
            if excluded.contains(&check.name) {
                report.push_str(&format!("[+]{} excluded: ok\n", check.name));
                continue;
            }
            match (check.probe)() {
                Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name)),
                Err(e) => {
                    tracing::debug!(check = check.name, error = e, "a health check fails");
                    failed.push(check.name);
                    report.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
                }
            }
        }
        let unknown: Vec<String> = excluded
            .iter()
            .filter(|e| **e != "ping" && !self.0.iter().any(|c| c.name == **e))
            .map(|e| format!("{e:?}"))
            .collect();
        if !unknown.is_empty() {
            report.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                unknown.join(",")
            ));
        }
        Some(if failed.is_empty() {
            if query.has("verbose") {
                text(StatusCode::OK, &format!("{report}{endpoint} check passed\n"))
            } else {
                text(StatusCode::OK, "ok")
            }
        } else {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{report}{endpoint} check failed\n"))
        })
    }
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health(vec![
            Check { name: "good", live: true, probe: Box::new(|| Ok(())) },
            Check { name: "bad", live: false, probe: Box::new(|| Err("why".into())) },
        ])
    }

    fn check(target: &str, expect: u16) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let got = health().answer(path, &Query::parse(query)).map_or(404, |r| r.status().as_u16());
        assert_eq!(got, expect, "{target}");
    }

    #[test]
    fn checks_count_where_they_belong() {
        check("/livez", 200);
        check("/readyz", 500);
        check("/readyz?exclude=bad", 200);
        check("/readyz/good", 200);
        check("/readyz/bad", 500);
        check("/readyz/none", 404);
        check("/other", 404);
    }
}
