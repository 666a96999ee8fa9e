//! The flags of the API server about what is changed or refused on the way in.
use std::path::{Path, PathBuf};

use apiserver::{Admission, DefaultTolerationSeconds, PluginFlags, Settings};
use clap::Args;

use crate::output::Failure;

/// Flags about admission, with upstream's names.
#[derive(Args, Debug)]
pub struct AdmissionFlags {
    /// Admission plugins that run besides those that run by default, in any order.
    #[arg(long, value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that do not run although they would by default.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// The admission plugins that run, and no others. Deprecated: use the two flags above.
    #[arg(long, value_delimiter = ',', hide = true)]
    admission_control: Option<Vec<String>>,
    /// An AdmissionConfiguration: what plugins are told.
    #[arg(long)]
    admission_control_config_file: Option<PathBuf>,
    /// How many seconds pods stay on a node that is not ready.
    #[arg(long, default_value_t = 300)]
    default_not_ready_toleration_seconds: i64,
    /// How many seconds pods stay on a node that is not reachable.
    #[arg(long, default_value_t = 300)]
    default_unreachable_toleration_seconds: i64,
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

impl AdmissionFlags {
    /// What the flags mean.
    pub fn settled(self) -> Result<Admission, Failure> {
        let next = "see --enable-admission-plugins";
        if self.admission_control.is_some() {
            tracing::warn!(
                "--admission-control has been deprecated, use --enable-admission-plugins or \
                 --disable-admission-plugins instead"
            );
        }
        let flags = PluginFlags {
            enable: self.enable_admission_plugins,
            disable: self.disable_admission_plugins,
            only: self.admission_control,
        };
        let plugins = flags.settled().map_err(|e| Failure::new(e.to_string(), next))?;
        let settings = match &self.admission_control_config_file {
            None => Settings::default(),
            Some(path) => {
                let failed = |why: String| {
                    let what = format!("failed to read plugin config: {}: {why}", path.display());
                    Failure::new(what, "see --admission-control-config-file")
                };
                let text = read(path).map_err(failed)?;
                let directory = path.parent().unwrap_or(Path::new("."));
                Settings::parse(&text, directory, read).map_err(|e| failed(e.to_string()))?
            }
        };
        let tolerations = DefaultTolerationSeconds {
            not_ready: self.default_not_ready_toleration_seconds,
            unreachable: self.default_unreachable_toleration_seconds,
        };
        Ok(Admission { plugins, settings, tolerations })
    }
}
