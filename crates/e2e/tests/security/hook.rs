//! A server that answers questions of API servers: what one may, which images may run.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use e2e::{eventually, free_port};
use serde_json::Value;

use crate::authority::{Authority, Pair};
use crate::control_plane::Process;

/// Answers SubjectAccessReviews: yes to `hooked`, never to `banned`, nothing to all others; and ImageReviews: yes to images
/// that are not called bad. Every question is a line of the file `asked`.
const SERVER: &str = r#"
import http.server, json, ssl, sys
port, certificate, key, asked = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        with open(asked, 'a') as file:
            file.write(json.dumps(review) + '\n')
        user = review['spec'].get('user')
        status = {'allowed': user == 'hooked'}
        if review['kind'] == 'ImageReview':
            good = not any('bad' in c['image'] for c in review['spec']['containers'])
            status = {'allowed': good, 'reason': '' if good else 'it is not signed', 'auditAnnotations': {'checked': 'yes'}}
        if user == 'banned':
            status = {'allowed': False, 'denied': True, 'reason': 'never again'}
        body = json.dumps({'apiVersion': review['apiVersion'], 'kind': review['kind'], 'status': status}).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// A server that is asked.
pub struct Webhook {
    pair: Pair,
    port: u16,
    dir: std::path::PathBuf,
}

impl Webhook {
    /// Its certificate and the kubeconfig that leads to it.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = dir.join("hook");
        let authority = Authority::new(dir.clone(), "hook-ca")?;
        let pair = authority.server("hook", "DNS:localhost,IP:127.0.0.1")?;
        let port = free_port()?;
        std::fs::write(dir.join("server.py"), SERVER)?;
        std::fs::write(
            dir.join("config"),
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{{name: s, cluster: {{server: \
                 'https://localhost:{port}/authorize', certificate-authority: {}}}}}]\ncontexts: [{{name: w, context: \
                 {{cluster: s, user: u}}}}]\nusers: [{{name: u}}]\n",
                authority.certificate().display()
            ),
        )?;
        Ok(Self { pair, port, dir })
    }

    pub fn config(&self) -> String {
        self.dir.join("config").display().to_string()
    }

    pub fn start(&self) -> Result<Process> {
        let mut command = Command::new("python3");
        command.arg(self.dir.join("server.py")).arg(self.port.to_string());
        command.args([self.pair.certificate(), self.pair.key()]).arg(self.dir.join("asked"));
        let process = Process::start(command, &self.dir.join("log"))?;
        eventually("the webhook listens", Duration::from_secs(30), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", self.port)).map(drop)?)
        })?;
        Ok(process)
    }

    pub fn questions(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("asked")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
