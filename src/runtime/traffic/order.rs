//! The order of a group's members in the kernel's array. Pure.

use super::slot::{Role, Slot};

/// The member at each index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order([Role; 3]);

impl Order {
    /// The order after all three members joined one after the other, beginning with this slot.
    pub const fn joined(first: Slot) -> Self {
        Self([Role::Slot(first), Role::Slot(first.other()), Role::Guard])
    }

    /// Builds an order from the members; `None` unless each member occurs exactly once.
    pub fn of(members: &[Role]) -> Option<Self> {
        let order: [Role; 3] = members.try_into().ok()?;
        Role::ALL.iter().all(|role| order.contains(role)).then_some(Self(order))
    }

    /// Computes the order when the labels were written, from the labels of the members that survive. A missing member
    /// takes the index that is left. If labels contradict each other, the order of a new group is assumed.
    pub fn recorded(labels: impl Iterator<Item = (Role, u64)>) -> Self {
        let mut order = [None; 3];
        for (role, place) in labels {
            match usize::try_from(place).ok().and_then(|place| order.get_mut(place)) {
                Some(free @ None) => *free = Some(role),
                _ => return Self::joined(Slot::A),
            }
        }
        // K takes the last free index; the slots take the others.
        for role in [Role::Guard, Role::Slot(Slot::B), Role::Slot(Slot::A)] {
            if !order.contains(&Some(role))
                && let Some(free) = order.iter_mut().rev().find(|place| place.is_none())
            {
                *free = Some(role);
            }
        }
        let members: Vec<Role> = order.into_iter().flatten().collect();
        Self::of(&members).unwrap_or(Self::joined(Slot::A))
    }

    /// The order after the `lost` members left. The kernel moves the last member into each hole.
    pub fn without(self, lost: &[Role]) -> Vec<Role> {
        let mut left = self.0.to_vec();
        for role in lost {
            if let Some(hole) = left.iter().position(|member| member == role) {
                left.swap_remove(hole);
            }
        }
        left
    }

    /// The index of a member.
    pub fn index(self, role: Role) -> u32 {
        match self.0 {
            [first, ..] if first == role => 0,
            [_, second, _] if second == role => 1,
            _ => 2,
        }
    }

    /// The index of the member of a slot.
    pub fn slot(self, slot: Slot) -> u32 {
        self.index(Role::Slot(slot))
    }

    /// True if the guard is the last member, as it must be.
    pub fn guard_is_last(self) -> bool {
        self.0[2] == Role::Guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Role = Role::Slot(Slot::A);
    const B: Role = Role::Slot(Slot::B);
    const K: Role = Role::Guard;

    #[test]
    fn the_places_of_lost_members_follow_from_the_survivors() {
        let recorded = |labels: &[(Role, u64)]| Order::recorded(labels.iter().copied()).0;
        assert_eq!(recorded(&[(A, 0), (B, 1), (K, 2)]), [A, B, K]);
        assert_eq!(recorded(&[(A, 1), (K, 2)]), [B, A, K]);
        assert_eq!(recorded(&[(B, 0)]), [B, A, K]);
        assert_eq!(recorded(&[(B, 1)]), [A, B, K]);
        assert_eq!(recorded(&[(K, 2)]), [A, B, K]);
        assert_eq!(recorded(&[]), [A, B, K]);
        for broken in [&[(A, 0), (B, 0)][..], &[(A, 7)], &[(A, u64::MAX)]] {
            assert_eq!(recorded(broken), [A, B, K]);
        }
    }

    #[test]
    fn it_does_not_matter_in_which_order_members_were_lost() {
        for order in [[A, B, K], [B, A, K]].map(Order) {
            for (one, two) in [(A, B), (A, K), (B, K)] {
                assert_eq!(order.without(&[one, two]), order.without(&[two, one]));
            }
        }
        assert_eq!(Order([A, B, K]).without(&[A]), [K, B]);
    }
}
