//! flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::checks;
use crate::flowcontrol::flow_schema::validate_conditions;
use crate::flowcontrol::mandatory;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_number, default_value, ensure, has, same};

/// Rules of priority levels.
pub(crate) struct PriorityLevel;

/// The level whose requests are never held back.
const EXEMPT: &str = "exempt";
const DEFAULT_SHARES: i64 = 30;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals a flow its queues.
const HASH_BITS: f64 = 60.0;

impl Rules for PriorityLevel {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let is_exempt = object.name() == EXEMPT;
        let spec = ensure(&mut object.0, "spec");
        if is_exempt && !has(spec, "exempt") {
            ensure(spec, "exempt");
        }
        for (field, shares) in [("exempt", 0), ("limited", DEFAULT_SHARES)] {
            if let Some(of_type) = child(spec, field) {
                default_value(of_type, "nominalConcurrencyShares", shares);
                default_value(of_type, "lendablePercent", 0);
            }
        }
        let queuing =
            child(spec, "limited").and_then(|l| child(l, "limitResponse")).and_then(|r| child(r, "queuing"));
        if let Some(queuing) = queuing {
            default_number(queuing, "handSize", 8);
            default_number(queuing, "queues", 64);
            default_number(queuing, "queueLengthLimit", 50);
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let (spec, name) = (object.field("spec"), object.fields(&["metadata", "name"]));
        let (ty, exempt, limited) = (spec.field("type"), spec.field("exempt"), spec.field("limited"));
        if (name.text() == EXEMPT) != (ty.text() == "Exempt") {
            errors.push(ty.invalid("type must be 'Exempt' if and only if name is 'exempt'"));
        }
        match ty.text() {
            "Exempt" => {
                if limited.exists() {
                    errors.push(limited.forbidden("must be nil if the type is not Limited"));
                }
                if exempt.exists() {
                    validate_shares(&exempt, errors);
                }
            }
            "Limited" => {
                if exempt.exists() {
                    errors.push(exempt.forbidden("must be nil if the type is Limited"));
                }
                if limited.exists() {
                    validate_limited(&limited, errors);
                } else {
                    errors.push(limited.required("must not be empty when type is Limited"));
                }
            }
            _ => errors.push(ty.not_supported(&["Exempt", "Limited"])),
        }
        validate_mandatory(&spec, name.text(), errors);
        validate_conditions(object, errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_conditions(new, errors);
    }
}

fn validate_mandatory(spec: &At, name: &str, errors: &mut FieldErrors) {
    let Some(fixed) = mandatory::priority_level(name) else { return };
    let mut own = spec.get().cloned().unwrap_or_default();
    let but = if name == EXEMPT {
        // How much of the server it is counted as may be tuned.
        if let Some(own) = own.as_object_mut() {
            own.remove("exempt");
        }
        " except the 'spec.exempt' field"
    } else {
        ""
    };
    if !same(Some(&own), Some(&fixed)) {
        errors.push(spec.invalid(format!("spec of '{name}'{but} must equal the fixed value")));
    }
}

fn validate_shares(of_type: &At, errors: &mut FieldErrors) {
    let shares = of_type.field("nominalConcurrencyShares");
    if shares.number() < 0 {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
    let lendable = of_type.field("lendablePercent");
    if !(0..=100).contains(&lendable.number()) {
        errors.push(lendable.invalid("must be between 0 and 100, inclusive"));
    }
}

fn validate_limited(limited: &At, errors: &mut FieldErrors) {
    validate_shares(limited, errors);
    let borrowing = limited.field("borrowingLimitPercent");
    if borrowing.number() < 0 {
        errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
    let response = limited.field("limitResponse");
    let (ty, queuing) = (response.field("type"), response.field("queuing"));
    match ty.text() {
        "Reject" => {
            if queuing.exists() {
                errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
            }
        }
        "Queue" => {
            if queuing.exists() {
                validate_queuing(&queuing, errors);
            } else {
                errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited"));
            }
        }
        _ => checks::one_of(&ty, &["Queue", "Reject"], errors),
    }
}

fn validate_queuing(queuing: &At, errors: &mut FieldErrors) {
    let (length, queues, hand) =
        (queuing.field("queueLengthLimit"), queuing.field("queues"), queuing.field("handSize"));
    let positive = |at: &At, errors: &mut FieldErrors| {
        let ok = at.number() > 0;
        if !ok {
            errors.push(at.invalid_as(at.number(), "must be positive"));
        }
        ok
    };
    positive(&length, errors);
    if positive(&queues, errors) && queues.number() > MAX_QUEUES {
        errors.push(queues.invalid(format!("must not be greater than {MAX_QUEUES}")));
    }
    if positive(&hand, errors) {
        let (deck, dealt) = (queues.number(), hand.number());
        if dealt > deck {
            errors.push(hand.invalid(format!("should not be greater than queues ({deck})")));
        } else if entropy_bits(deck, dealt) > HASH_BITS {
            errors.push(hand.invalid(format!(
                "required entropy bits of deckSize {deck} and handSize {dealt} should not be greater than {HASH_BITS}"
            )));
        }
    }
}

/// Bits of a hash that it takes to deal this many cards out of a deck.
fn entropy_bits(deck: i64, dealt: i64) -> f64 {
    let mut bits = 0.0;
    for card in 0..dealt {
        // Precise below 2^53, and a deck has at most ten million cards.
        #[allow(clippy::cast_precision_loss)]
        let left = (deck - card) as f64;
        bits += left.log2();
        if bits > HASH_BITS {
            break;
        }
    }
    bits.ceil()
}
