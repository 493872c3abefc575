"""The cache evicts its least recently used entry."""

from trustwatch_client.service_connection import BoundedCache


def test_the_least_recently_used_entry_makes_room():
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)

    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_a_new_value_takes_the_place_of_the_old_one():
    cache: BoundedCache[str, int] = BoundedCache(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        cache.put(key, value)

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (3, None, 4)


def test_a_cache_of_no_entries_keeps_none():
    cache: BoundedCache[str, int] = BoundedCache(0)
    cache.put("a", 1)

    assert (cache.get("a"), len(cache)) == (None, 0)
