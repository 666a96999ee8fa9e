//! What an answer or a silence of a backend means for its clients. No clock, no socket.

/// What came of asking a backend how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is well.
    Ready,
    /// It answers, and says that it is not ready: it starts, or is about to stop.
    Unready,
    /// Nobody listens there, or the connection was closed.
    Refused,
    /// No answer in time.
    Silent,
}

/// How a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes clients.
    Up,
    /// Gets no new clients while there are others that take them; those it has stay.
    Leaving,
    /// Gone: its clients have to go elsewhere.
    Down,
}

/// Follows one backend.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    state: State,
    silent: u32,
}

impl Default for Health {
    /// Nothing is known, so it is tried.
    fn default() -> Self {
        Self { state: State::Leaving, silent: 0 }
    }
}

impl Health {
    /// Silences in a row until a backend counts as gone: a busy one misses an answer now and then, and its clients
    /// should not pay for it.
    const SILENCES: u32 = 2;

    /// How it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in an outcome; says whether the state changed.
    pub fn observe(&mut self, outcome: Outcome) -> bool {
        let before = self.state;
        self.silent = if outcome == Outcome::Silent { self.silent.saturating_add(1) } else { 0 };
        self.state = match outcome {
            Outcome::Ready => State::Up,
            Outcome::Unready => State::Leaving,
            // The process is not there: neither are the connections it had.
            Outcome::Refused => State::Down,
            Outcome::Silent if self.silent >= Self::SILENCES || before == State::Down => State::Down,
            Outcome::Silent => State::Leaving,
        };
        self.state != before
    }
}

/// The backends in the order in which to try them for a new client: those that are up first, of these the one with
/// the fewest clients. All are tried before a client is sent away, as checks may be wrong.
pub fn order(states: &[(State, usize)], turn: usize) -> Vec<usize> {
    let rank = |state| match state {
        State::Up => 0,
        State::Leaving => 1,
        State::Down => 2,
    };
    let mut all: Vec<usize> = (0..states.len()).collect();
    // Equals take turns.
    all.rotate_left(turn % states.len().max(1));
    all.sort_by_key(|i| (rank(states[*i].0), states[*i].1));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silence_sends_new_clients_elsewhere_and_the_second_one_the_others() {
        let check = |outcomes: &[Outcome], want: &[State]| {
            let mut health = Health::default();
            let states: Vec<State> = outcomes
                .iter()
                .map(|o| {
                    health.observe(*o);
                    health.state()
                })
                .collect();
            assert_eq!(states, want, "{outcomes:?}");
        };
        use Outcome::{Ready, Refused, Silent, Unready};
        use State::{Down, Leaving, Up};
        check(&[Ready, Silent, Silent, Silent, Ready], &[Up, Leaving, Down, Down, Up]);
        check(&[Ready, Silent, Ready, Silent], &[Up, Leaving, Up, Leaving]);
        check(&[Ready, Refused, Silent, Unready, Ready], &[Up, Down, Down, Leaving, Up]);
        check(&[Ready, Unready, Unready], &[Up, Leaving, Leaving]);
    }

    #[test]
    fn the_least_busy_that_is_up_comes_first_and_nobody_is_left_out() {
        use State::{Down, Leaving, Up};
        assert_eq!(order(&[(Up, 3), (Up, 1), (Down, 0), (Leaving, 0)], 0), [1, 0, 3, 2]);
        assert_eq!(order(&[(Down, 0), (Down, 0)], 1), [1, 0]);
        assert_eq!(order(&[(Up, 0), (Up, 0), (Up, 0)], 4), [1, 2, 0]);
        assert_eq!(order(&[], 0), Vec::<usize>::new());
    }
}
