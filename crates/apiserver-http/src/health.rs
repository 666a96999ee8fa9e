//! `/healthz`, `/livez`, `/readyz` and their named checks. Upstream: apiserver/pkg/server/healthz, 1.36.
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use crate::body::{Body, full};
use crate::query::Query;

/// A check that takes longer fails.
const PROBE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(2) };

/// How a check finds out.
pub type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One named check.
pub struct Check {
    /// Name, for example `etcd` or `poststarthook/rbac/bootstrap-roles`.
    pub name: &'static str,
    /// Whether a failure also means that the process should be restarted; what does not only counts for `/readyz`.
    pub live: bool,
    /// What is wrong now, if anything.
    pub probe: Probe,
}

impl Check {
    /// A check that knows at once.
    pub fn quick(
        name: &'static str,
        live: bool,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, live, probe: Box::new(move || Box::pin(std::future::ready(probe()))) }
    }

    async fn run(&self) -> Result<(), String> {
        match tokio::time::timeout(PROBE, (self.probe)()).await {
            Ok(result) => result,
            Err(_) => Err("the check did not end in time".to_owned()),
        }
    }
}

/// All checks of a server.
#[derive(Default)]
pub struct Health(pub Vec<Check>);

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

impl Health {
    /// Whether a path asks for health.
    pub fn is_health(path: &str) -> bool {
        let first = path.trim_start_matches('/').split('/').next();
        first.is_some_and(|endpoint| ENDPOINTS.contains(&endpoint))
    }

    /// Every path that is answered.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        ENDPOINTS.iter().flat_map(|endpoint| {
            let checks = self.0.iter().filter(|c| c.live || *endpoint == "readyz").map(|c| c.name);
            let below = std::iter::once("ping").chain(checks).map(move |name| format!("/{endpoint}/{name}"));
            std::iter::once(format!("/{endpoint}")).chain(below)
        })
    }

    /// Answers the paths of health; `None` for other paths.
    pub async fn answer(&self, path: &str, query: &Query<'_>) -> Option<Response<Body>> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next().filter(|e| ENDPOINTS.contains(e))?;
        let one = parts.next();
        let excluded: Vec<&str> = query.all("exclude").collect();
        let relevant = |c: &&Check| endpoint == "readyz" || c.live;
        if let Some(name) = one {
            if name == "ping" {
                return Some(text(StatusCode::OK, "ok"));
            }
            let check = self.0.iter().filter(relevant).find(|c| c.name == name)?;
            return Some(match check.run().await {
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
            match check.run().await {
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
            .filter(|e| **e != "ping" && !self.0.iter().filter(relevant).any(|c| c.name == **e))
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
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health(vec![
            Check::quick("good", true, || Ok(())),
            Check::quick("bad", false, || Err("why".into())),
            Check { name: "slow", live: false, probe: Box::new(|| Box::pin(std::future::pending())) },
        ])
    }

    async fn check(target: &str, status: u16, expect: &str) {
        use http_body_util::BodyExt as _;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(answer) = health().answer(path, &Query::parse(query)).await else {
            return assert_eq!(404, status, "{target}");
        };
        let got = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!((got, std::str::from_utf8(&body)), (status, Ok(expect)), "{target}");
    }

    #[tokio::test]
    async fn checks_count_where_they_belong() {
        check("/livez", 200, "ok").await;
        check("/healthz", 200, "ok").await;
        let report = "[+]ping ok\n[+]good ok\n[-]bad failed: reason withheld\n[-]slow failed: reason withheld\n\
            readyz check failed\n";
        check("/readyz", 500, report).await;
        check("/readyz?exclude=bad&exclude=slow", 200, "ok").await;
        let report =
            "[+]ping ok\n[+]good ok\n[+]bad excluded: ok\n[+]slow excluded: ok\nreadyz check passed\n";
        check("/readyz?exclude=bad&exclude=slow&verbose", 200, report).await;
        let report = "[+]ping ok\n[+]good ok\n\
            warn: some health checks cannot be excluded: no matches for \"bad\"\nlivez check passed\n";
        check("/livez?verbose&exclude=bad", 200, report).await;
        check("/readyz/good", 200, "ok").await;
        check("/readyz/ping", 200, "ok").await;
        check("/readyz/bad", 500, "internal server error: why\n").await;
        check("/readyz/slow", 500, "internal server error: the check did not end in time\n").await;
        check("/livez/bad", 404, "").await;
        check("/other", 404, "").await;
    }

    #[test]
    fn every_path_is_listed() {
        let health = health();
        let paths: Vec<String> = health.paths().collect();
        assert!(paths.contains(&"/readyz/bad".to_owned()) && paths.contains(&"/livez/ping".to_owned()));
        assert!(!paths.contains(&"/livez/bad".to_owned()));
    }
}
