use super::*;

/// `a:cw b:c` is a control plane and worker a, and a control plane b; addresses follow from the letters.
fn spec(hosts: &str, more: &str) -> ClusterSpec {
    let mut text = "name: c\nhosts:\n".to_owned();
    for word in hosts.split_whitespace() {
        let (name, roles) = word.split_once(':').expect("NAME:ROLES");
        let roles: Vec<&str> = roles
            .chars()
            .map(|role| match role {
                'c' => "control-plane",
                'e' => "etcd",
                _ => "worker",
            })
            .collect();
        let number = name.as_bytes()[0] - b'a' + 1;
        text += &format!("- {{name: {name}, address: 192.0.2.{number}, roles: [{}]}}\n", roles.join(", "));
    }
    let reading = ClusterSpec::read(&(text + more), &|_| Ok(()));
    reading.spec.unwrap_or_else(|| panic!("{:?}", reading.mistakes))
}

/// `a b! c? (d)`: a works, b does not, c was announced and never started, d learns.
fn members(text: &str) -> Vec<Member> {
    let member = |word: &str| {
        let name: String = word.chars().filter(char::is_ascii_alphabetic).collect();
        let number = u64::from(name.as_bytes()[0] - b'a' + 1);
        let started = !word.contains('?');
        Member {
            id: number,
            name: if started { name } else { String::new() },
            peer_url: format!("https://192.0.2.{number}:2380"),
            learner: word.starts_with('('),
            healthy: started && !word.contains('!'),
        }
    };
    text.split_whitespace().map(member).collect()
}

fn told(acts: &[Act]) -> String {
    let one = |act: &Act| match act {
        Act::Forget { host, .. } => format!("forget {host}"),
        Act::Resign { host, .. } => format!("resign {host}"),
        Act::MoveObjects { from } => format!("move from {from}"),
        Act::Join { host } => format!("join {host}"),
        Act::Apply => "apply".into(),
        Act::Leave { host, member, answers } => {
            let member = if member.is_some() { " with member" } else { "" };
            let silent = if *answers { "" } else { " unseen" };
            format!("leave {host}{member}{silent}")
        }
    };
    acts.iter().map(one).collect::<Vec<_>>().join(", ")
}

struct Case<'a> {
    former: &'a str,
    wanted: &'a str,
    members: &'a str,
    blank: &'a str,
    silent: &'a str,
    force: bool,
}

const THREE: &str = "a:cw b:cw c:cw";

impl Case<'_> {
    fn outcome(&self) -> String {
        let set = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let seen = Seen { members: members(self.members), blank: set(self.blank), silent: set(self.silent) };
        let embedded = |hosts: &str| {
            if hosts.matches(":c").count() == 1 && self.members.is_empty() {
                "etcd: {topology: embedded}"
            } else {
                "etcd: {topology: stacked}"
            }
        };
        let former = spec(self.former, embedded(self.former));
        let wanted = spec(self.wanted, embedded(self.wanted));
        match plan(Some(&former), &wanted, &seen, self.force) {
            Ok(acts) => told(&acts),
            Err(all) => {
                all.iter().for_each(|r| assert!(!r.next.is_empty(), "{r:?}"));
                all.into_iter().map(|r| format!("no: {}", r.what)).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

#[test]
fn changes_are_put_in_order() {
    let check = |wanted: &str, found: &str, blank: &str, want: &str| {
        let case = Case { former: THREE, wanted, members: found, blank, silent: "", force: false };
        assert_eq!(case.outcome(), want, "{wanted} | {found} | {blank}");
    };
    // As it is, down or up.
    check(THREE, "a b c", "", "apply");
    check(THREE, "", "", "apply");
    check(THREE, "a b c!", "", "apply");
    // More.
    check("a:cw b:cw c:cw d:w", "a b c", "d", "apply");
    check("a:cw b:cw c:cw d:cw e:c", "a b c", "d e", "join d, join e, apply");
    // Begun before.
    check("a:cw b:cw c:cw d:cw", "a b c d?", "d", "join d, apply");
    check("a:cw b:cw c:cw d:cw", "a b c (d)", "", "join d, apply");
    check(THREE, "a b c d?", "", "forget https://192.0.2.4:2380, apply");
    // Fewer.
    check("a:cw b:cw", "a b c", "", "apply, leave c with member");
    check("a:cw b:cw", "a b c!", "", "forget c, apply, leave c");
    check("a:cw b:cw c:w", "a b c", "", "resign c, apply");
    check("b:cw", "a b c", "", "apply, leave a with member, leave c with member");
    // Replaced: its disk is gone, or another one takes its place.
    check(THREE, "a b c!", "c", "forget c, join c, apply");
    check(THREE, "a b", "c", "join c, apply");
    check("a:cw b:cw d:cw", "a b c!", "c d", "forget c, join d, apply, leave c");
    check("a:cw b:cw d:cw", "a b c", "d", "join d, apply, leave c with member");
}

#[test]
fn a_majority_is_never_given_up() {
    let check = |wanted: &str, found: &str, want: &str| {
        let case = Case { former: THREE, wanted, members: found, blank: "", silent: "", force: false };
        assert!(case.outcome().contains(want), "{wanted} | {found}: {}", case.outcome());
    };
    check("a:cw b:cw", "a b! c", "no: without c, 1 of 2 members of etcd would work");
    check("a:cw b:cw c:w", "a b! c", "no: without c, 1 of 2");
    check(THREE, "a b! c!", "no: 1 of 3 members of etcd work");
    check("d:cw e:cw", "a b c", "no: none of the control planes would stay");
    check(THREE, "a b c x", "no: etcd has a member x");
}

#[test]
fn workers_come_and_go_beside_an_embedded_store() {
    let check = |former: &str, wanted: &str, silent: &str, force: bool, want: &str| {
        let case = Case { former, wanted, members: "", blank: "", silent, force };
        assert_eq!(case.outcome(), want, "{former} -> {wanted}");
    };
    check("a:cw b:w", "a:cw b:w c:w", "", false, "apply");
    check("a:cw b:w c:w", "a:cw", "", false, "apply, leave b, leave c");
    check("a:cw b:w", "a:cw", "b", true, "apply, leave b unseen");
    let refused =
        Case { former: "a:cw b:w", wanted: "a:cw", members: "", blank: "", silent: "b", force: false };
    assert!(refused.outcome().contains("does not answer"), "{}", refused.outcome());
    // Its objects move once there are several, with or without those that go.
    check("a:cw b:w", "a:cw b:cw c:cw", "", false, "move from a, apply");
    check("a:cw b:w", "a:cw c:cw d:c", "", false, "move from a, apply, leave b");
}

#[test]
fn what_objects_were_made_with_stays() {
    let former = spec(THREE, "");
    let check = |wanted: &ClusterSpec, want: &str| {
        let all = refusals(&former, wanted);
        assert!(all.iter().any(|r| r.what.contains(want) && !r.next.is_empty()), "{want}: {all:?}");
    };
    check(&spec(THREE, "network: {serviceCIDR: 10.97.0.0/16}"), "network.serviceCIDR is 10.96.0.0/12");
    check(&spec(THREE, "network: {podCIDR: 10.245.0.0/16}"), "network.podCIDR");
    check(&spec(THREE, "network: {domain: other.example}"), "network.domain");
    check(&spec("a:cwe b:cwe c:cwe", "etcd: {topology: hosts}"), "stacked and cannot become hosts");
    check(&spec("a:c", "etcd: {topology: embedded}"), "stacked and cannot become embedded");
    let mut moved = former.clone();
    moved.hosts[1].address = [192, 0, 2, 9].into();
    check(&moved, "host b is at 192.0.2.2 and cannot move to 192.0.2.9");
    assert_eq!(refusals(&former, &former), []);
    // What nodes were given lies in a wider range too.
    assert_eq!(refusals(&former, &spec(THREE, "network: {podCIDR: 10.240.0.0/12}")), []);
    let alone = spec("a:cw b:w", "");
    let other = refusals(&alone, &spec("b:cw", ""));
    assert!(other[0].what.contains("a keeps the objects"), "{other:?}");
}

#[test]
fn lost_data_is_told_from_a_host_that_is_down() {
    let former = spec(THREE, "");
    let blank = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    assert_eq!(majority_lost(&former, &blank("")), None);
    assert_eq!(majority_lost(&former, &blank("c d")), None);
    let two = majority_lost(&former, &blank("b c")).expect("lost");
    assert!(two.what.starts_with("2 of 3 members") && two.next.contains("--from-member a"), "{two:?}");
    let all = majority_lost(&former, &blank("a b c")).expect("lost");
    assert!(all.next.contains("cox restore FILE") && !all.next.contains("--from-member"), "{all:?}");
    assert_eq!(majority_lost(&spec("a:cw b:w", ""), &blank("a b")), None);
}
