//! Decks of cards that are dealt without end: all cards before one again.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// The cards 0, 1, …, n − 1, dealt in rounds without end and handed out m at a time.
///
/// - Each round deals every card once, so at any time two cards were dealt equally often to within one.
/// - A hand of at most n cards has none twice, a larger one has each ⌊m/n⌋ or ⌈m/n⌉ times.
/// - Each hand is a function of its number, and so is [how often](Self::dealt) the hands before it held a card:
///   nothing has to be remembered from one epoch to the next.
///
/// A deck of at least 2m cards is shuffled for each round. A smaller one keeps its order for the lcm(n, m) cards that
/// are whole rounds and whole hands alike: any m ≤ n cards in a row are then different.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deck {
    cards: usize,
    hand: usize,
    seed: u64,
    /// Another for each deck of a sampler.
    stream: u64,
}

impl Deck {
    /// A deck of `cards`, dealt in hands of `hand`, both at least 1.
    pub fn new(cards: usize, hand: usize, seed: u64, stream: u64) -> Self {
        Self { cards, hand, seed, stream }
    }

    /// How often each card is in the first `hands` hands.
    pub fn dealt(&self, hands: u128) -> Vec<u128> {
        let at = hands * self.hand as u128;
        let (rounds, begun) = (at / self.cards as u128, (at % self.cards as u128) as usize);
        let mut dealt = vec![rounds; self.cards];
        if begun > 0 {
            self.order(at / self.cards_a_shuffle()).iter().take(begun).for_each(|&card| dealt[card] += 1);
        }
        dealt
    }

    /// The hands after the first `hands`.
    pub fn after(&self, hands: u128) -> Dealer {
        let (at, cards_a_shuffle) = (hands * self.hand as u128, self.cards_a_shuffle());
        Dealer {
            deck: *self,
            shuffle: at / cards_a_shuffle,
            left: cards_a_shuffle - at % cards_a_shuffle,
            next: (at % self.cards as u128) as usize,
            order: Vec::new(),
        }
    }

    /// How many cards are dealt, round after round, before the deck is shuffled.
    fn cards_a_shuffle(&self) -> u128 {
        let (n, m) = (self.cards, self.hand);
        let rounds = if n / 2 >= m { 1 } else { m / greatest_common_divisor(n, m) };
        n as u128 * rounds as u128
    }

    /// The order of the cards after shuffle `shuffle`.
    ///
    /// Where a hand has cards of the shuffle before, those that it takes of this one are others. That concerns decks of
    /// at least 2m cards only, and the last cards of an order, which the next one asks for, stay as they were shuffled:
    /// so no order depends on more than one other.
    fn order(&self, shuffle: u128) -> Vec<usize> {
        let mut order = self.shuffled(shuffle);
        let in_hand = (shuffle * self.cards_a_shuffle() % self.hand as u128) as usize;
        if in_hand > 0 {
            let before = self.shuffled(shuffle - 1);
            let held = &before[self.cards - in_hand..];
            let (taken, rest) = order.split_at_mut(self.hand - in_hand);
            // `rest` begins with whole hands, at least one, since n ≥ 2m; its first m cards have enough that are not
            // held: no more than `in_hand` are held there and in `taken` together.
            let mut free = rest.iter_mut().filter(|card| !held.contains(card));
            for card in taken.iter_mut().filter(|card| held.contains(card)) {
                if let Some(free) = free.next() {
                    std::mem::swap(card, free);
                }
            }
        }
        order
    }

    fn shuffled(&self, shuffle: u128) -> Vec<usize> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.stream.to_le_bytes());
        key[16..].copy_from_slice(&shuffle.to_le_bytes());
        let mut order: Vec<usize> = (0..self.cards).collect();
        order.shuffle(&mut ChaCha8Rng::from_seed(key));
        order
    }
}

/// Deals a deck from some hand on.
#[derive(Debug)]
pub(super) struct Dealer {
    deck: Deck,
    shuffle: u128,
    /// Cards to be dealt before the next shuffle.
    left: u128,
    /// The place in `order` of the card that comes next; n where it is the first again.
    next: usize,
    /// Empty until a card is dealt, since most decks of a sampler may not be asked in an epoch.
    order: Vec<usize>,
}

impl Dealer {
    /// The next hand.
    pub fn hand(&mut self) -> Vec<usize> {
        (0..self.deck.hand).map(|_| self.card()).collect()
    }

    fn card(&mut self) -> usize {
        if self.left == 0 {
            self.shuffle += 1;
            self.left = self.deck.cards_a_shuffle();
            self.order.clear();
        }
        if self.order.is_empty() {
            self.order = self.deck.order(self.shuffle);
        }
        self.next %= self.deck.cards;
        let card = self.order[self.next];
        self.next += 1;
        self.left -= 1;
        card
    }
}

pub(super) fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every size of deck and hand to 24 and 12, over more than the n hands after which hands and rounds coincide.
    #[test]
    fn rounds_are_whole_and_hands_have_no_card_twice() {
        for (cards, hand) in (1..=24).flat_map(|n| (1..=12).map(move |m| (n, m))) {
            let deck = Deck::new(cards, hand, 3, 5);
            let mut dealer = deck.after(0);
            let hands: Vec<Vec<usize>> = (0..3 * cards).map(|_| dealer.hand()).collect();
            for round in hands.concat().chunks(cards) {
                let different = round.iter().collect::<BTreeSet<_>>().len();
                assert_eq!(different, round.len(), "{cards} cards, {hand} in a hand: {hands:?}");
            }
            for one in &hands {
                let times = |card| one.iter().filter(|&&c| c == card).count();
                let even = (0..cards).all(|c| (hand / cards..=hand.div_ceil(cards)).contains(&times(c)));
                assert!(even, "{cards} cards, {hand} in a hand: {one:?}");
            }
        }
    }

    #[test]
    fn a_hand_is_a_function_of_its_number() {
        for (cards, hand) in [(1, 1), (2, 5), (7, 4), (7, 7), (8, 4), (23, 4), (100, 7)] {
            let deck = Deck::new(cards, hand, 11, 0);
            let mut dealer = deck.after(0);
            let mut times = vec![0; cards];
            for number in 0..60 {
                assert_eq!(deck.dealt(number), times, "{cards} cards, {hand} in a hand, {number} hands");
                let next = dealer.hand();
                assert_eq!(deck.after(number).hand(), next);
                next.iter().for_each(|&card| times[card] += 1);
            }
        }
    }

    /// In a hand that lies across two rounds, every card is as likely as any other: of 5,000 decks of 9 cards in
    /// hands of 4, hand 2 has 1 card of round 0 and 3 of round 1, so each is in it in 4/9 of them.
    #[test]
    fn hands_across_two_rounds_favor_no_card() {
        let mut times = [0.0; 9];
        let n = 5000;
        for stream in 0..n {
            Deck::new(9, 4, 0, stream).after(2).hand().iter().for_each(|&card| times[card] += 1.0);
        }
        let (share, n) = (4.0 / 9.0, n as f64);
        let bound = 5.0 * (n * share * (1.0 - share)).sqrt(); // five standard deviations
        assert!(times.iter().all(|times| (times - n * share).abs() < bound), "{times:?}");
    }
}
