//! `cox token`: bootstrap tokens, with which hosts join.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};
use pki::BootstrapToken;
use serde_json::{Value, json};

use crate::args::Which;
use crate::cluster::Cluster;
use crate::commands::join::discovery::{self, Told};
use crate::commands::join::said;
use crate::commands::up_hosts::admin;
use crate::hosts::HostsCluster;
use crate::output::{Failure, note, print, print_json};
use crate::parts;

/// The group of those who ask for a kubelet's certificate with a token, as kubeadm has it.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const USAGE: &str = "usage-bootstrap-";
/// How long a new token may take until cluster-info is signed with it.
const SIGNING: Duration = Duration::from_secs(30);

/// `cox token`.
#[derive(Subcommand, Clone, Debug)]
pub enum Token {
    /// Makes a token, and prints it or the command that joins a host with it.
    Create(Create),
    /// Tells which tokens there are.
    List(List),
    /// Deletes tokens: nobody joins with them any more; nodes that did stay.
    Delete(Delete),
    /// Prints a random token, and makes nothing.
    #[command(after_help = "Examples:\n  cox token generate")]
    Generate,
}

/// Whose tokens.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Asks the cluster of this kubeconfig, rather than one that `cox up` made.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

/// `cox token create`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox token create --print-join-command     run what it prints on the host that joins, as root\n  \
    cox token create --ttl 2h --description 'rack 7'\n  cox token create abcdef.0123456789abcdef --ttl 0"
)]
pub struct Create {
    /// Whose tokens.
    #[command(flatten)]
    pub at: Where,
    /// The token, as `[a-z0-9]{6}.[a-z0-9]{16}`; a random one if absent.
    #[arg(value_name = "TOKEN", value_parser = token)]
    pub token: Option<BootstrapToken>,
    /// How long it is good for, as 1s, 2m, 3h; 0: for ever.
    #[arg(long, default_value = "24h0m0s", value_parser = ttl)]
    pub ttl: Duration,
    /// What it is for, for people.
    #[arg(long, default_value = "")]
    pub description: String,
    /// Groups that who has it is in, beside system:bootstrappers.
    #[arg(long, value_delimiter = ',', default_value = GROUP, value_parser = group)]
    pub groups: Vec<String>,
    /// What it is good for: signing (of cluster-info), authentication.
    #[arg(long, value_delimiter = ',', default_value = "signing,authentication", value_parser = usage)]
    pub usages: Vec<String>,
    /// Prints the whole command that joins a host, in place of the token alone.
    #[arg(long)]
    pub print_join_command: bool,
}

/// `cox token list`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  cox token list\n  cox token list -o json | jq -r '.tokens[].id'")]
pub struct List {
    /// Whose tokens.
    #[command(flatten)]
    pub at: Where,
}

/// `cox token delete`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox token delete abcdef\n  cox token delete abcdef.0123456789abcdef uvwxyz"
)]
pub struct Delete {
    /// Whose tokens.
    #[command(flatten)]
    pub at: Where,
    /// The tokens, whole or by what is before the dot.
    #[arg(value_name = "TOKEN", required = true, value_parser = id)]
    pub ids: Vec<String>,
}

fn token(text: &str) -> Result<BootstrapToken, String> {
    text.parse()
}

fn id(text: &str) -> Result<String, String> {
    let whole = if text.contains('.') { text.to_owned() } else { format!("{text}.0123456789abcdef") };
    match whole.parse::<BootstrapToken>() {
        Ok(token) => Ok(token.id().to_owned()),
        Err(_) => Err("neither a token nor the six letters before its dot".into()),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parts::go_duration(text) }
}

fn group(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("system:bootstrappers:").unwrap_or_default();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fine = rest.len() <= 256
        && rest.bytes().last().is_some_and(plain)
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-');
    if fine {
        Ok(text.to_owned())
    } else {
        Err(r"bootstrap group is invalid (must match \Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z)"
            .into())
    }
}

fn usage(text: &str) -> Result<String, String> {
    match text {
        "signing" | "authentication" => Ok(text.to_owned()),
        _ => Err("there are signing and authentication".into()),
    }
}

/// `cox token`.
pub async fn token_verb(verb: Token, as_json: bool) -> Result<ExitCode, Failure> {
    match verb {
        Token::Create(options) => create(options, as_json).await?,
        Token::List(options) => list(&options.at.client().await?, as_json).await?,
        Token::Delete(options) => delete(&options.at.client().await?, &options.ids, as_json).await?,
        Token::Generate => {
            let token = BootstrapToken::generate().map_err(|e| Failure::of(&e))?.expose();
            if as_json {
                print_json(&json!({ "token": *token }))?;
            } else {
                print(&format!("{}\n", *token))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Where {
    async fn client(&self) -> Result<Client, Failure> {
        let path = match (&self.kubeconfig, HostsCluster::kept(&self.which)?) {
            (Some(path), _) => path.clone(),
            (None, Some(cluster)) => cluster.admin_kubeconfig(),
            (None, None) => Cluster::kept(&self.which)?.admin_kubeconfig(),
        };
        admin(&path).await
    }
}

fn refused(what: &str) -> impl Fn(kube::Error) -> Failure + '_ {
    move |error| {
        Failure::new(format!("cannot {what}: {}", said(&error)), "`cox status` tells how the cluster is")
    }
}

async fn create(options: Create, as_json: bool) -> Result<(), Failure> {
    let client = options.at.client().await?;
    let token = match &options.token {
        Some(token) => token.clone(),
        None => BootstrapToken::generate().map_err(|e| Failure::of(&e))?,
    };
    let expires = Some(options.ttl).filter(|ttl| !ttl.is_zero()).map(|ttl| expiry(Timestamp::now(), ttl));
    let expires = expires.transpose()?;
    let told = if options.print_join_command { Some(told(&client).await?) } else { None };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    match secrets.create(&PostParams::default(), &secret(&token, &options, expires)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            return Err(Failure::new(
                format!("there is a token {:?} already", token.id()),
                format!("take another, or `cox token delete {}` first", token.id()),
            ));
        }
        other => other.map_err(refused("make the token"))?,
    };
    let whole = token.expose();
    let Some(told) = told else {
        return if as_json {
            print_json(&json!({ "token": *whole, "expires": expires }))
        } else {
            print(&format!("{}\n", *whole))
        };
    };
    if options.usages.iter().any(|u| u == "signing") {
        signed(&client, &token).await?;
    }
    let command = format!(
        "cox join {} --token {} --discovery-token-ca-cert-hash {}",
        told.endpoint,
        *whole,
        pki::public_key_pin(&told.authority_pem).map_err(|e| Failure::of(&e))?
    );
    if as_json {
        print_json(&json!({ "token": *whole, "expires": expires, "joinCommand": command }))
    } else {
        print(&format!("{command}\n"))
    }
}

fn expiry(now: Timestamp, ttl: Duration) -> Result<Timestamp, Failure> {
    let at = SignedDuration::try_from(ttl).ok().and_then(|ttl| now.checked_add(ttl).ok());
    // To the second, as upstream writes it.
    let at = at.and_then(|at| Timestamp::from_second(at.as_second()).ok());
    at.ok_or_else(|| {
        Failure::new("the token would outlive time itself", "`--ttl 0` makes one that never ends")
    })
}

fn secret(token: &BootstrapToken, options: &Create, expires: Option<Timestamp>) -> Secret {
    let mut data: BTreeMap<String, String> = BTreeMap::from([
        ("token-id".to_owned(), token.id().to_owned()),
        ("token-secret".to_owned(), token.secret().to_owned()),
    ]);
    if !options.description.is_empty() {
        data.insert("description".into(), options.description.clone());
    }
    data.extend(expires.map(|at| ("expiration".to_owned(), at.to_string())));
    data.extend(options.usages.iter().map(|usage| (format!("{USAGE}{usage}"), "true".to_owned())));
    if options.usages.iter().any(|u| u == "authentication") && !options.groups.is_empty() {
        data.insert("auth-extra-groups".into(), options.groups.join(","));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{}", token.id())),
            namespace: Some("kube-system".into()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.into()),
        string_data: Some(data),
        ..Secret::default()
    }
}

/// What cluster-info tells who joins.
async fn told(client: &Client) -> Result<Told, Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let info = maps.get_opt("cluster-info").await.map_err(refused("read cluster-info"))?;
    let kubeconfig = info.and_then(|i| i.data?.remove("kubeconfig")).ok_or_else(|| {
        Failure::new(
            "hosts cannot join this cluster: there is no ConfigMap cluster-info in kube-public",
            "`cox up` writes it for clusters of several hosts; one that lives in this machine alone takes no others",
        )
    })?;
    discovery::told(&kubeconfig)
}

/// Waits until the token can be used.
async fn signed(client: &Client, token: &BootstrapToken) -> Result<(), Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let key = discovery::signature_key(token);
    let has =
        |info: Option<&ConfigMap>| info.and_then(|i| i.data.as_ref()).is_some_and(|d| d.contains_key(&key));
    let wait = kube::runtime::wait::await_condition(maps, "cluster-info", has);
    if !matches!(tokio::time::timeout(SIGNING, wait).await, Ok(Ok(_))) {
        note(
            "  warning: cluster-info is not signed with the token yet; the bootstrap signer of the controller manager does \
             that: does it run (`cox status`)?",
        );
    }
    Ok(())
}

/// A token as it is listed.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    id: String,
    secret: String,
    expires: Option<Timestamp>,
    usages: Vec<String>,
    description: String,
    groups: Vec<String>,
}

fn listed(secret: &Secret) -> Option<Listed> {
    let data = secret.data.as_ref()?;
    let text =
        |key: &str| data.get(key).map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default();
    let id = text("token-id");
    if secret.type_.as_deref() != Some(TYPE) || secret.name_any() != format!("bootstrap-token-{id}") {
        return None;
    }
    let usages = data.keys().filter(|k| text(k) == "true").filter_map(|k| k.strip_prefix(USAGE));
    let groups = text("auth-extra-groups");
    Some(Listed {
        id,
        secret: text("token-secret"),
        // What cannot be read counts as past, as the API server has it.
        expires: Some(text("expiration"))
            .filter(|t| !t.is_empty())
            .map(|t| t.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
        usages: usages.map(str::to_owned).collect(),
        description: text("description"),
        groups: groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect(),
    })
}

async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let of_tokens = ListParams::default().fields(&format!("type={TYPE}"));
    let found = secrets.list(&of_tokens).await.map_err(refused("list the tokens"))?;
    let tokens: Vec<Listed> = found.iter().filter_map(listed).collect();
    if as_json {
        let all: Vec<Value> = tokens
            .iter()
            .map(|t| {
                json!({
                    "id": t.id, "token": format!("{}.{}", t.id, t.secret), "expires": t.expires, "usages": t.usages,
                    "description": t.description, "groups": t.groups,
                })
            })
            .collect();
        return print_json(&json!({ "tokens": all }));
    }
    print(&table(&tokens, Timestamp::now()))
}

/// As kubeadm tells it.
fn table(tokens: &[Listed], now: Timestamp) -> String {
    let mut text = format!(
        "{:<25} {:<11} {:<22} {:<24} {:<30} EXTRA GROUPS\n",
        "TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION"
    );
    let none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    for token in tokens {
        let (left, expires) = match token.expires {
            None => ("<forever>".to_owned(), "<never>".to_owned()),
            Some(at) if at <= now => ("<invalid>".to_owned(), at.to_string()),
            Some(at) => (short(at.duration_since(now)), at.to_string()),
        };
        text += &format!(
            "{:<25} {left:<11} {expires:<22} {:<24} {:<30} {}\n",
            format!("{}.{}", token.id, token.secret),
            none(token.usages.join(",")),
            none(token.description.clone()),
            none(token.groups.join(",")),
        );
    }
    text
}

/// A duration as kubectl tells ages.
fn short(left: SignedDuration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

async fn delete(client: &Client, ids: &[String], as_json: bool) -> Result<(), Failure> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let mut missing = Vec::new();
    for id in ids {
        match secrets.delete(&format!("bootstrap-token-{id}"), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => missing.push(id.as_str()),
            Err(error) => return Err(refused("delete the token")(error)),
            Ok(_) if as_json => {}
            Ok(_) => print(&format!("bootstrap token {id:?} deleted\n"))?,
        }
    }
    if !missing.is_empty() {
        return Err(Failure::new(
            format!("there is no token {}", missing.join(", ")),
            "those that have expired are deleted by the cluster itself; `cox token list` tells which there are",
        ));
    }
    if as_json { print_json(&json!({ "deleted": ids })) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use k8s_openapi::ByteString;

    use super::*;
    use crate::args::{Cli, Command};

    fn options(line: &[&str]) -> Result<Create, clap::Error> {
        let whole: Vec<&str> = ["cox", "token", "create"].iter().chain(line).copied().collect();
        Cli::try_parse_from(whole).map(|cli| match cli.command {
            Command::Token(Token::Create(options)) => options,
            _ => panic!("another verb"),
        })
    }

    #[test]
    fn a_token_is_kept_as_kubeadm_keeps_it() {
        let options =
            options(&["abcdef.0123456789abcdef", "--ttl=1h", "--description=rack 7", "--usages=signing"])
                .unwrap();
        assert_eq!(options.ttl, Duration::from_secs(3600));
        let now: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
        let expires = expiry(now, options.ttl).unwrap();
        let made = secret(options.token.as_ref().unwrap(), &options, Some(expires));
        let data = made.string_data.clone().unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        assert_eq!(data["expiration"], "2026-07-01T01:00:00Z");
        assert_eq!(data["usage-bootstrap-signing"], "true");
        assert!(
            !data.contains_key("auth-extra-groups") && !data.contains_key("usage-bootstrap-authentication")
        );

        // The API server keeps it as bytes.
        let bytes = data.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))).collect();
        let found = listed(&Secret { data: Some(bytes), string_data: None, ..made }).unwrap();
        assert_eq!((found.id.as_str(), found.expires), ("abcdef", Some(expires)));
        let text = table(&[found], now);
        assert!(
            text.contains("abcdef.0123456789abcdef   60m         2026-07-01T01:00:00Z   signing"),
            "{text}"
        );
        assert!(text.contains("rack 7") && text.ends_with("<none>\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(options(&["--ttl=0"]).unwrap().ttl.is_zero());
        for bad in [&["abc"][..], &["--groups=system:masters"], &["--usages=all"], &["--ttl=soon"]] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
        assert_eq!(id("abcdef.0123456789abcdef").unwrap(), "abcdef");
        assert_eq!(id("abcdef").unwrap(), "abcdef");
        assert!(id("abc").is_err());
        assert_eq!(short(SignedDuration::from_hours(72)), "3d");
    }
}
