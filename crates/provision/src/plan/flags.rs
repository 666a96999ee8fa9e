//! Command lines of parts: our flags, and those of `extraArgs` in their place or behind them.

use std::path::Path;

use crate::spec::{ClusterSpec, Part};

/// The flags of a part.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(String, String)>);

impl Flags {
    pub fn add(&mut self, flag: &str, value: impl ToString) {
        self.0.push((flag.to_owned(), value.to_string()));
    }

    pub fn path(&mut self, flag: &str, value: impl AsRef<Path>) {
        self.add(flag, value.as_ref().display());
    }

    /// The whole line; what `cluster.yaml` says of a flag is said in place of ours.
    pub fn line(self, program: &Path, spec: &ClusterSpec, part: Part) -> Vec<String> {
        let none = std::collections::BTreeMap::new();
        let extra = spec.extra_args.get(&part).unwrap_or(&none);
        let mut line = vec![program.display().to_string()];
        for (flag, value) in &self.0 {
            let value = extra.get(flag).unwrap_or(value);
            line.push(format!("--{flag}={value}"));
        }
        let ours = |flag: &String| self.0.iter().any(|(own, _)| own == flag);
        for (flag, value) in extra.iter().filter(|(flag, _)| !ours(flag)) {
            line.push(format!("--{flag}={value}"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_flags_win() {
        let text = "name: c\nhosts: [{name: a, address: 192.0.2.1, roles: [control-plane, worker]}]\n\
                    extraArgs: {kubelet: {max-pods: 7, v: '4'}, etcd: {v: '5'}}\n";
        let spec = ClusterSpec::read(text, &|_| Ok(())).spec.expect("a cluster");
        let mut flags = Flags::default();
        flags.add("config", "x");
        flags.add("max-pods", 110);
        flags.path("root", "/r");
        assert_eq!(
            flags.line(Path::new("/bin/kubelet"), &spec, Part::Kubelet),
            ["/bin/kubelet", "--config=x", "--max-pods=7", "--root=/r", "--v=4"]
        );
    }
}
