-- Commodity prices, one row a day for each commodity and source. Shared by all tenants: prices are public.
-- The number is the one that existing clients know this table's migration by; there never was a 0002 here.

create table price_quotes (
    id uuid primary key default gen_random_uuid(),
    commodity text not null,  -- for example WTI or HENRY_HUB
    quoted_on date not null,
    price numeric(14, 4) not null,  -- may be below zero: WTI was on 2020-04-20
    currency char(3) not null default 'USD',
    unit text not null,  -- for example BBL or MMBTU
    source text not null,
    created_at timestamptz not null default now(),
    constraint price_quotes_unique unique (commodity, quoted_on, source),
    constraint price_quotes_commodity_check check (commodity ~ '^[A-Z][A-Z0-9_]*$'),
    constraint price_quotes_currency_check check (currency ~ '^[A-Z]{3}$')
);
