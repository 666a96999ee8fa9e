//! The static token file: lines of `token,user,uid,"group1,group2"`.
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use machinery::request::UserInfo;

use crate::{AuthnError, TokenAuthenticator, TokenUser, sha256, with_authenticated_group};

/// Tokens of a file. Kept as hashes, so that a lookup takes the same time whatever it compares.
pub struct TokenFile(HashMap<[u8; 32], Arc<UserInfo>>);

/// What is wrong with a token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// A line with too few columns.
    #[error("line {line}: a token line needs at least token, user name and user uid columns")]
    TooFewColumns {
        /// Counted from 1.
        line: usize,
    },
    /// A quote that does not end.
    #[error("line {line}: a quoted column does not end")]
    OpenQuote {
        /// Counted from 1.
        line: usize,
    },
}

impl TokenFile {
    /// Reads the text of a file. Of lines with the same token the last counts.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line).ok_or(TokenFileError::OpenQuote { line: i + 1 })?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::TooFewColumns { line: i + 1 });
            };
            if token.is_empty() {
                continue;
            }
            let groups = rest.first().map_or("", String::as_str);
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned);
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.collect(),
                ..UserInfo::default()
            };
            users.insert(sha256(&[token.as_bytes()]), Arc::new(with_authenticated_group(user)));
        }
        Ok(Self(users))
    }
}

/// Columns of one line; a quoted one may hold commas, and quotes as pairs.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let mut column = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let end = rest.find('"')?;
                column.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        column.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
            rest = rest.find(',').map_or("", |comma| &rest[comma..]);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            column.push_str(rest[..end].trim_end());
            rest = &rest[end..];
        }
        out.push(column);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(out),
        }
    }
}

#[async_trait]
impl TokenAuthenticator for TokenFile {
    async fn authenticate_token(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let user = self.0.get(&sha256(&[token.as_bytes()]));
        Ok(user.map(|user| TokenUser { user: user.clone(), audiences: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_users_and_groups() {
        let file = TokenFile::parse("abc,jane,1\n\n  def, joe , 2 ,\"devs,ops\"\n,nobody,3\n").unwrap();
        let who = async |token: &str| {
            file.authenticate_token(token, &[]).await.unwrap().map(|t| t.user.as_ref().clone())
        };
        assert_eq!(who("abc").await.unwrap().groups, ["system:authenticated"]);
        let joe = who("def").await.unwrap();
        assert_eq!((joe.name.as_str(), joe.uid.as_str()), ("joe", "2"));
        assert_eq!(joe.groups, ["devs", "ops", "system:authenticated"]);
        assert_eq!(who("").await, None);
        assert_eq!(who("ab").await, None);
    }

    #[test]
    fn says_which_line_is_wrong() {
        let error = |text: &str| TokenFile::parse(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(
            error("a,b,c\na,b"),
            "line 2: a token line needs at least token, user name and user uid columns"
        );
        assert_eq!(error("a,b,c,\"d"), "line 1: a quoted column does not end");
    }
}
